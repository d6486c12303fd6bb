import type { OpAttributes, OpInputs } from '../../core/ops.table.js';
import { factors } from './matmul.js';
import { floats, type Kernels, type Operand } from './operand.js';

/** One query row of one head: where its numbers begin in q, which keys it sees and where they begin in k. */
interface Row {
  /** Its place in q and out, in elements. */
  readonly q: number;
  /** Its place in lse. */
  readonly lse: number;
  /** The place of each key that it sees, in elements of k and v. */
  readonly keys: readonly number[];
}

/** Checks the operands that both directions have and visits the rows, the mask applied. */
function eachRow(
  { q, k, v, segments }: OpInputs<'attention', Operand>,
  { headDim, window }: OpAttributes<'attention'>,
  visit: (row: Row) => void,
): void {
  const [Tq, qColumns] = q.check(floats, [-1, -1]).shape;
  const [Tk, kColumns] = k.check(floats, [-1, -1]).shape;
  v.check(floats, k.shape);
  if (!(headDim > 0) || kColumns === 0 || kColumns % headDim !== 0 || qColumns % kColumns !== 0) {
    q.refuse(`${qColumns} query columns and ${kColumns} key columns do not fit heads of ${headDim}`);
  }
  const [S] = segments.check(['i32'], [-1, 4]).shape;
  const table = segments.integers();
  const [H, shared] = [qColumns / headDim, qColumns / kColumns];
  let next = 0;
  for (let s = 0; s < S; s++) {
    const [qStart, qEnd, kStart, kEnd] = table.subarray(4 * s, 4 * s + 4);
    const past = kEnd - kStart - (qEnd - qStart);
    if (qStart !== next || qEnd < qStart || qEnd > Tq || kStart < 0 || kEnd > Tk || past < 0) {
      segments.refuse(`row ${s} (${qStart}, ${qEnd}, ${kStart}, ${kEnd}) does not fit ${Tq} queries and ${Tk} keys`);
    }
    for (let i = 0; i < qEnd - qStart; i++) {
      for (let h = 0; h < H; h++) {
        const keys: number[] = [];
        for (let j = window === 0 ? 0 : Math.max(0, past + i - window + 1); j <= past + i; j++) {
          keys.push((kStart + j) * kColumns + Math.floor(h / shared) * headDim);
        }
        visit({ q: (qStart + i) * qColumns + h * headDim, lse: (qStart + i) * H + h, keys });
      }
    }
    next = qEnd;
  }
  if (next !== Tq) segments.refuse(`ends at query ${next}`, `${Tq}`);
}

function dot(a: Float32Array, aBegin: number, b: Float32Array, bBegin: number, n: number): number {
  let sum = 0;
  for (let d = 0; d < n; d++) sum += a[aBegin + d] * b[bBegin + d];
  return sum;
}

export const attentionOps: Kernels<'attention' | 'attentionBackward'> = {
  attention: (inputs, { out, lse }, attributes) => {
    const { q, k, v } = inputs;
    const { headDim, scale } = attributes;
    out.check(floats, q.shape);
    lse.check(['f32'], [q.shape[0], q.shape[1] / headDim]);
    const [queries, keys] = factors(q, k);
    const values = v.values();
    const result = new Float32Array(q.size);
    const logSums = new Float32Array(lse.size);
    eachRow(inputs, attributes, (row) => {
      const scores = row.keys.map((key) => scale * dot(queries, row.q, keys, key, headDim));
      const max = scores.reduce((a, b) => Math.max(a, b));
      const sum = scores.reduce((total, score) => total + Math.exp(score - max), 0);
      logSums[row.lse] = max + Math.log(sum);
      for (let d = 0; d < headDim; d++) {
        let o = 0;
        row.keys.forEach((key, j) => {
          o += Math.exp(scores[j] - max) * values[key + d];
        });
        result[row.q + d] = o / sum;
      }
    });
    out.store(result);
    lse.store(logSums);
  },
  attentionBackward: (inputs, { dq, dk, dv }, attributes) => {
    const { q, k, v, out, lse, dout } = inputs;
    const { headDim, scale } = attributes;
    for (const operand of [out, dout, dq]) operand.check(floats, q.shape);
    for (const operand of [dk, dv]) operand.check(floats, k.shape);
    lse.check(['f32'], [q.shape[0], q.shape[1] / headDim]);
    const [queries, keys] = factors(q, k);
    const [douts, values] = factors(dout, v);
    const [o, logSums] = [out.values(), lse.values()];
    const [dqs, dks, dvs] = [q, k, k].map(({ size }) => new Float64Array(size));
    eachRow(inputs, attributes, (row) => {
      const delta = dot(douts, row.q, o, row.q, headDim);
      for (const key of row.keys) {
        const p = Math.exp(scale * dot(queries, row.q, keys, key, headDim) - logSums[row.lse]);
        const ds = p * (dot(douts, row.q, values, key, headDim) - delta);
        for (let d = 0; d < headDim; d++) {
          dvs[key + d] += p * douts[row.q + d];
          dqs[row.q + d] += scale * ds * keys[key + d];
          dks[key + d] += scale * ds * queries[row.q + d];
        }
      }
    });
    dq.store(Float32Array.from(dqs));
    dk.store(Float32Array.from(dks));
    dv.store(Float32Array.from(dvs));
  },
};
