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
  readonly head: number;
}

/** The keys' scores before and after their cap. */
function scoresOf(
  { q, keys }: Row,
  queries: Float32Array,
  k: Float32Array,
  { headDim, scale, softcap }: OpAttributes<'attention'>,
): number[] {
  const scores = keys.map((key) => scale * dot(queries, q, k, key, headDim));
  return softcap > 0 ? scores.map((score) => softcap * Math.tanh(score / softcap)) : scores;
}

/** Checks the operands that both directions have and visits the rows, the mask applied. */
function eachRow(
  { q, k, v, segments, sinks }: OpInputs<'attention', Operand>,
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
  sinks?.check(['f32'], [H]);
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
        visit({ q: (qStart + i) * qColumns + h * headDim, lse: (qStart + i) * H + h, keys, head: h });
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
    const { q, k, v, sinks } = inputs;
    const { headDim } = attributes;
    out.check(floats, q.shape);
    lse.check(['f32'], [q.shape[0], q.shape[1] / headDim]);
    const [queries, keys] = factors(q, k);
    const values = v.values();
    const result = new Float32Array(q.size);
    const logSums = new Float32Array(lse.size);
    const sinkScores = sinks?.values();
    eachRow(inputs, attributes, (row) => {
      const scores = scoresOf(row, queries, keys, attributes);
      const sink = sinkScores?.[row.head] ?? Number.NEGATIVE_INFINITY;
      const max = scores.reduce((a, b) => Math.max(a, b), sink);
      const sum = scores.reduce((total, score) => total + Math.exp(score - max), Math.exp(sink - max));
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
  attentionBackward: (inputs, { dq, dk, dv, dsinks }, attributes) => {
    const { q, k, v, out, lse, dout, sinks } = inputs;
    const { headDim, scale, softcap } = attributes;
    for (const operand of [out, dout, dq]) operand.check(floats, q.shape);
    for (const operand of [dk, dv]) operand.check(floats, k.shape);
    lse.check(['f32'], [q.shape[0], q.shape[1] / headDim]);
    const [queries, keys] = factors(q, k);
    const [douts, values] = factors(dout, v);
    const [o, logSums] = [out.values(), lse.values()];
    const [dqs, dks, dvs] = [q, k, k].map(({ size }) => new Float64Array(size));
    const sinkScores = sinks?.values();
    const sinkSlopes = Float64Array.from(dsinks?.check(['f32'], [lse.shape[1]]).values() ?? []);
    eachRow(inputs, attributes, (row) => {
      const delta = dot(douts, row.q, o, row.q, headDim);
      if (sinkScores && dsinks) sinkSlopes[row.head] -= Math.exp(sinkScores[row.head] - logSums[row.lse]) * delta;
      const scores = scoresOf(row, queries, keys, attributes);
      for (const [j, key] of row.keys.entries()) {
        const p = Math.exp(scores[j] - logSums[row.lse]);
        const slope = softcap > 0 ? 1 - (scores[j] / softcap) ** 2 : 1;
        const ds = p * (dot(douts, row.q, values, key, headDim) - delta) * slope;
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
    dsinks?.store(Float32Array.from(sinkSlopes));
  },
};
