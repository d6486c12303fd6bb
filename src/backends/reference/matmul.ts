import { fromBf16, toBf16 } from '../../util/half.js';
import { floats, type Kernels, type Operand } from './operand.js';

/** The factors of a matrix product: both are rounded to bf16 as soon as one of them is bf16. */
export function factors(a: Operand, b: Operand): [Float32Array, Float32Array] {
  const rounded = a.dtype === 'bf16' || b.dtype === 'bf16';
  const read = (x: Operand) => (rounded && x.dtype === 'f32' ? x.values().map((value) => fromBf16(toBf16(value))) : x.values());
  return [read(a), read(b)];
}

export const products: Kernels<'matmul' | 'addBias' | 'columnSum'> = {
  matmul: ({ a, b }, { out }, { transposeA, transposeB, alpha, accumulate }) => {
    a.check(floats, [-1, -1]);
    const [M, K] = transposeA ? [a.shape[1], a.shape[0]] : a.shape;
    b.check(floats, transposeB ? [-1, K] : [K, -1]);
    const N = transposeB ? b.shape[0] : b.shape[1];
    out.check(floats, [M, N]);
    const [x, y] = factors(a, b);
    const [xRow, xStep] = transposeA ? [1, M] : [K, 1];
    const [yColumn, yStep] = transposeB ? [K, 1] : [1, N];
    const before = accumulate ? out.values() : new Float32Array(M * N);
    const result = new Float32Array(M * N);
    for (let i = 0; i < M; i++) {
      for (let j = 0; j < N; j++) {
        let sum = 0;
        for (let k = 0; k < K; k++) sum += x[i * xRow + k * xStep] * y[j * yColumn + k * yStep];
        result[i * N + j] = before[i * N + j] + alpha * sum;
      }
    }
    out.store(result);
  },
  addBias: ({ x, bias }, { out }) => {
    const [, N] = x.check(floats, [-1, -1]).shape;
    const b = bias.check(floats, [N]).values();
    out.check(floats, x.shape).store(x.values().map((value, i) => value + b[i % N]));
  },
  columnSum: ({ x }, { out }) => {
    const [T, N] = x.check(floats, [-1, -1]).shape;
    const before = out.check(['f32'], [N]).values();
    const values = x.values();
    const result = before.map((start, j) => {
      let sum = start;
      for (let t = 0; t < T; t++) sum += values[t * N + j];
      return sum;
    });
    out.store(result);
  },
};
