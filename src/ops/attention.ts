import { fuses } from '../core/capabilities.js';
import { addGradient, record } from '../core/tape.js';
import { empty, type Tensor, zeros } from '../core/tensor.js';
import { LowrankError } from '../util/errors.js';
import { checkShape } from './check.js';
import { matmulNN, matmulNT, matmulTN } from './linear.js';

/**
 * The packed examples of one sequence. Rows of `table` [S,4] i32 are (qStart, qEnd, kStart, kEnd); `rows` is the same on the host.
 * In training both ranges are equal; with cached keys the key range is longer and the queries stand at its end.
 */
export interface Segments {
  table: Tensor;
  rows: Int32Array;
}

export interface AttentionOptions {
  headDim: number;
  /** Factor of the scores; 1/√headDim for most models. */
  scale: number;
  /** Keys that a query sees, itself included; 0 for all. */
  window?: number;
  /** Scores become softcap·tanh(score/softcap); 0 for no cap. */
  softcap?: number;
  /** [H] f32: one more score for each head, of a key whose value is 0. */
  sinks?: Tensor;
}

/** The same with what may be left out filled in. */
type Settings = Required<Omit<AttentionOptions, 'sinks'>> & Pick<AttentionOptions, 'sinks'>;

/** What attention gives: out [Tq,H·D] and, where it is one op, lse [Tq,H] f32, the log Σ exp of each query's scores. */
export interface AttentionHeads {
  out: Tensor;
  lse?: Tensor;
}

/**
 * Causal grouped-query attention over packed examples: q [Tq,H·D], k, v [Tk,G·D] → o [Tq,H·D]. What an earlier pass has `kept` is not
 * computed again.
 *
 * o = p·v, p = softmax(s + mask), s = scale·q·kᵀ;  dv = pᵀ·do, ds = p∘(do·vᵀ − rowsum(do∘o)), dq = scale·ds·k, dk = scale·dsᵀ·q.
 * With a cap s = softcap·tanh(scale·q·kᵀ/softcap) and ds has the factor 1 − (s/softcap)². With sinks Σ_j p + p_sink = 1;
 * dsinks = −Σ_t p_sink·rowsum(do∘o).
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  segments: Segments,
  options: AttentionOptions,
  kept?: AttentionHeads,
): AttentionHeads {
  const { headDim, scale, window = 0, softcap = 0, sinks } = options;
  checkShape('attention', 'v', v, k.shape);
  checkShape('attention', 'segments', segments.table, [-1, 4]);
  if (q.shape[1] % k.shape[1] !== 0 || k.shape[1] % headDim !== 0) {
    throw new LowrankError(`attention: ${q.shape[1]} query columns do not fit ${k.shape[1]} key columns of heads of ${headDim}`);
  }
  if (sinks) checkShape('attention', 'sinks', sinks, [q.shape[1] / headDim]);
  const backend = q.backend;
  if (!fuses(backend, 'attention') || !fuses(backend, 'attentionBackward')) {
    return { out: composedAttention(q, k, v, segments, { headDim, scale, window, softcap, sinks }, kept?.out) };
  }
  const out = kept?.out ?? empty(backend, q.shape, q.dtype);
  const lse = kept?.lse ?? empty(backend, [q.shape[0], q.shape[1] / headDim], 'f32');
  const table = segments.table;
  const attributes = { headDim, scale, window, softcap };
  if (!kept) backend.run('attention', { q, k, v, segments: table, sinks }, { out, lse }, attributes);
  record('attention', [q, k, v, sinks], out, [q, k, v, sinks, out, lse, table], (dout, gradients) => {
    const dq = empty(backend, q.shape, q.dtype);
    const dk = empty(backend, k.shape, k.dtype);
    const dv = empty(backend, v.shape, v.dtype);
    const backward = (dsinks?: Tensor) =>
      backend.run('attentionBackward', { q, k, v, out, lse, dout, segments: table, sinks }, { dq, dk, dv, dsinks }, attributes);
    if (sinks?.requiresGrad) return [dq, dk, dv, addGradient(sinks, gradients, backward)];
    backward();
    return [dq, dk, dv];
  });
  return { out, lse };
}

/** The same out of elementary ops, one head of one example at a time, with its probabilities recomputed for the backward pass. */
function composedAttention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, options: Settings, kept?: Tensor): Tensor {
  const backend = q.backend;
  const out = kept ?? empty(backend, q.shape, q.dtype);
  if (!kept) {
    eachHead(q, k, segments.rows, options.headDim, (head) => {
      const { p } = probabilities(q, k, head, options);
      const o = empty(backend, [head.queries, options.headDim], 'f32');
      matmulNN(backend, p, part(v, head.kRow, head.kColumn, head.keys, options.headDim), o);
      backend.run('place', { x: o }, { out }, { row: head.qRow, column: head.qColumn, accumulate: false });
    });
  }
  const { sinks } = options;
  return record('attention', [q, k, v, sinks], out, [q, k, v, sinks], (dout) => composedBackward(q, k, v, dout, segments, options));
}

function composedBackward(q: Tensor, k: Tensor, v: Tensor, dout: Tensor, segments: Segments, options: Settings): (Tensor | undefined)[] {
  const backend = q.backend;
  const { headDim, scale, softcap, sinks } = options;
  const [dq, dk, dv] = [q, k, v].map((tensor) => zeros(backend, tensor.shape, 'f32'));
  const dsinks = sinks?.requiresGrad ? zeros(backend, sinks.shape, 'f32', 'gradients') : undefined;
  eachHead(q, k, segments.rows, headDim, (head) => {
    const { qRow, qColumn, kRow, kColumn, queries, keys } = head;
    const { p, scores } = probabilities(q, k, head, options);
    const doutHead = part(dout, qRow, qColumn, queries, headDim);
    const ds = empty(backend, [queries, keys], 'f32');
    matmulNT(backend, doutHead, part(v, kRow, kColumn, keys, headDim), ds);
    backend.run('softmaxBackward', { y: p, dy: ds }, { dx: ds, dsink: dsinks?.rows(qColumn / headDim, 1) }, {});
    if (scores) backend.run('softcapBackward', { x: scores, dy: ds }, { dx: ds }, { cap: softcap });
    const shares: [Tensor, number, number, Tensor][] = [
      [dq, qRow, qColumn, empty(backend, [queries, headDim], 'f32')],
      [dk, kRow, kColumn, empty(backend, [keys, headDim], 'f32')],
      [dv, kRow, kColumn, empty(backend, [keys, headDim], 'f32')],
    ];
    matmulNN(backend, ds, part(k, kRow, kColumn, keys, headDim), shares[0][3], scale);
    matmulTN(backend, ds, part(q, qRow, qColumn, queries, headDim), shares[1][3], scale);
    matmulTN(backend, p, doutHead, shares[2][3]);
    for (const [out, row, column, x] of shares) backend.run('place', { x }, { out }, { row, column, accumulate: true });
  });
  return [dq, dk, dv, dsinks];
}

interface Head {
  qRow: number;
  qColumn: number;
  kRow: number;
  kColumn: number;
  queries: number;
  keys: number;
}

function eachHead(q: Tensor, k: Tensor, segments: Int32Array, headDim: number, body: (head: Head) => void): void {
  const heads = q.shape[1] / headDim;
  const groups = k.shape[1] / headDim;
  for (let s = 0; s < segments.length; s += 4) {
    const [qStart, qEnd, kStart, kEnd] = segments.subarray(s, s + 4);
    for (let h = 0; h < heads; h++) {
      const kColumn = Math.floor((h * groups) / heads) * headDim;
      body({ qRow: qStart, qColumn: h * headDim, kRow: kStart, kColumn, queries: qEnd - qStart, keys: kEnd - kStart });
    }
  }
}

function part(x: Tensor, row: number, column: number, rows: number, columns: number): Tensor {
  const out = empty(x.backend, [rows, columns], x.dtype);
  x.backend.run('slice', { x }, { out }, { row, column });
  return out;
}

/** The weights p of the keys [queries, keys] f32 and, with a cap, the scores before it. */
function probabilities(q: Tensor, k: Tensor, head: Head, options: Settings): { p: Tensor; scores?: Tensor } {
  const { headDim, scale, window, softcap, sinks } = options;
  const backend = q.backend;
  const scores = empty(backend, [head.queries, head.keys], 'f32');
  const kHead = part(k, head.kRow, head.kColumn, head.keys, headDim);
  matmulNT(backend, part(q, head.qRow, head.qColumn, head.queries, headDim), kHead, scores, scale);
  const p = softcap > 0 ? empty(backend, scores.shape, 'f32') : scores;
  if (softcap > 0) backend.run('softcap', { x: scores }, { y: p }, { cap: softcap });
  const sink = sinks?.rows(head.qColumn / headDim, 1);
  backend.run('softmax', { x: p, sink }, { y: p }, { offset: head.keys - head.queries, window });
  return softcap > 0 ? { p, scores } : { p };
}
