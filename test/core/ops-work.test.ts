import { expect, test } from 'vitest';
import type { OpAttributes } from '../../src/core/ops.table.js';
import { type Shaped, workOf } from '../../src/core/ops.work.js';

const f32 = (...shape: number[]): Shaped => ({ dtype: 'f32', shape });
const bf16 = (...shape: number[]): Shaped => ({ dtype: 'bf16', shape });
const i32 = (...shape: number[]): Shaped => ({ dtype: 'i32', shape });

test('a product is two operations for each multiply-add, in every form, and reads its result where it adds to it', () => {
  const attributes = { transposeA: false, transposeB: true, alpha: 1, accumulate: false };
  const flops = 2 * 10 * 6 * 7;
  const bytes = 4 * (10 * 6 + 7 * 6 + 10 * 7);
  expect(workOf('matmul', { a: f32(10, 6), b: f32(7, 6) }, { out: f32(10, 7) }, attributes)).toEqual({ flops, bytes });
  const nn = { ...attributes, transposeB: false };
  expect(workOf('matmul', { a: f32(10, 6), b: f32(6, 7) }, { out: f32(10, 7) }, nn)).toEqual({ flops, bytes });
  const tn = { ...nn, transposeA: true, accumulate: true };
  const added = workOf('matmul', { a: f32(6, 10), b: f32(6, 7) }, { out: f32(10, 7) }, tn);
  expect(added).toEqual({ flops, bytes: bytes + 4 * 10 * 7 });
});

test('a quantised weight is as many bytes as its codes, scales and constants', () => {
  const operands = { a: bf16(2, 64), b: { dtype: 'u4', shape: [32, 64] } as Shaped, absmax: f32(32), constants: f32(17) };
  const attributes = { transposeA: false, transposeB: true, alpha: 1, accumulate: false };
  const { bytes } = workOf('matmul', operands, { out: bf16(2, 32) }, attributes);
  expect(bytes).toBe(2 * 2 * 64 + (32 * 64) / 2 + 4 * 32 + 4 * 17 + 2 * 2 * 32);
});

test('a linear layer with a branch, forward, backward and the gradients of the branch', () => {
  const [x, y, h] = [f32(10, 6), f32(10, 4), f32(10, 2)];
  const parameters = { weight: f32(4, 6), A: f32(2, 6), B: f32(4, 2) };
  const attributes = { scale: 1, maskScale: 1 };
  const branch = 2 * 10 * 2 * (6 + 4);
  expect(workOf('loraLinear', { x, ...parameters }, { y, h }, attributes).flops).toBe(2 * 10 * 6 * 4 + branch);
  expect(workOf('loraLinearBackward', { dy: y, ...parameters }, { dx: x, dh: h }, attributes).flops).toBe(2 * 10 * 6 * 4 + branch);
  const outputs = { dA: f32(2, 6), dB: f32(4, 2) };
  expect(workOf('loraGradients', { x, h, dy: y, dh: h }, outputs, { maskScale: 1 }).flops).toBe(branch);
  // Without y the weight is not touched.
  const bytes = 4 * (10 * 6 + 2 * 6 + 10 * 2);
  expect(workOf('loraLinear', { x, ...parameters }, { h }, attributes)).toEqual({ flops: 2 * 10 * 6 * 2, bytes });
});

/** Pairs of a query and a key that it sees, counted one by one. */
function pairs(segments: number, queries: number, keys: number, window: number): number {
  let count = 0;
  for (let i = 0; i < queries; i++) {
    const p = keys - queries + i;
    for (let j = 0; j <= p; j++) if (window === 0 || j > p - window) count++;
  }
  return segments * count;
}

test.each([
  [1, 7, 7, 0],
  [3, 5, 5, 0],
  [2, 1, 9, 0],
  [2, 3, 9, 0],
  [1, 40, 40, 11],
  [2, 6, 30, 4],
  [1, 5, 8, 100],
  [1, 9, 9, 1],
])('attention over %d segments of %d queries and %d keys, window %d', (segments, queries, keys, window) => {
  const [heads, groups, headDim] = [4, 2, 8];
  const q = bf16(segments * queries, heads * headDim);
  const k = bf16(segments * keys, groups * headDim);
  const lse = f32(segments * queries, heads);
  const attributes: OpAttributes<'attention'> = { headDim, scale: 1, window, softcap: 0 };
  const product = 2 * pairs(segments, queries, keys, window) * heads * headDim;
  const inputs = { q, k, v: k, segments: i32(segments, 4) };
  expect(workOf('attention', inputs, { out: q, lse }, attributes).flops).toBe(2 * product);
  const backward = { ...inputs, out: q, lse, dout: q };
  expect(workOf('attentionBackward', backward, { dq: q, dk: k, dv: k }, attributes).flops).toBe(5 * product);
});

test('attention over nothing is no work', () => {
  const inputs = { q: f32(0, 8), k: f32(0, 8), v: f32(0, 8), segments: i32(0, 4) };
  const outputs = { out: f32(0, 8), lse: f32(0, 1) };
  expect(workOf('attention', inputs, outputs, { headDim: 8, scale: 1, window: 0, softcap: 0 })).toEqual({ flops: 0, bytes: 0 });
});

test('other ops move their operands once, accumulators twice, and of rows those that are named', () => {
  expect(workOf('add', { a: f32(3, 5), b: bf16(3, 5) }, { out: bf16(3, 5) }, {})).toEqual({ flops: 0, bytes: 15 * (4 + 2 + 2) });
  expect(workOf('sumSquares', { x: f32(9) }, { out: f32(1) }, {}).bytes).toBe(4 * 9 + 2 * 4);
  expect(workOf('gatherRows', { x: bf16(1000, 8), rows: i32(3) }, { out: f32(3, 8) }, {}).bytes).toBe(3 * 8 * (2 + 4) + 3 * 4);
  expect(workOf('addRows', { x: f32(3, 8), rows: i32(3) }, { out: f32(1000, 8) }, {}).bytes).toBe(3 * 8 * 4 * 3 + 3 * 4);
  expect(workOf('slice', { x: f32(100, 100) }, { out: f32(2, 3) }, { row: 0, column: 0 }).bytes).toBe(2 * 4 * 6);
});
