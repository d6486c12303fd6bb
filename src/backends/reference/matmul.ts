import type { OpAttributes, OpInputs, OpOutputs } from '../../core/ops.table.js';
import { bf16ToF32, f32ToBf16 } from '../../util/half.js';
import { floats, type Kernels, type Operand } from './operand.js';
import { numbersOf } from './quantize.js';
import { kept } from './random.js';

/** Numbers as a product sees them: rounded to bf16 or as they are. */
const asFactor = (rounded: boolean) => (values: Float32Array) => (rounded ? bf16ToF32(f32ToBf16(values)) : values);

/** The factors of a matrix product: both are rounded to bf16 as soon as one of them is bf16. */
export function factors(a: Operand, b: Operand): Float32Array[] {
  return [a, b].map((x) => x.values()).map(asFactor(a.dtype === 'bf16' || b.dtype === 'bf16'));
}

/** left [M,K] · right, an element of which is right(k, j), [K,N]; summed in f64. */
function multiply(left: ArrayLike<number>, right: (k: number, j: number) => number, [M, K, N]: readonly number[]): Float64Array {
  const result = new Float64Array(M * N);
  const column = new Float64Array(K);
  for (let j = 0; j < N; j++) {
    for (let k = 0; k < K; k++) column[k] = right(k, j);
    for (let i = 0; i < M; i++) {
      let sum = 0;
      for (let k = 0; k < K; k++) sum += left[i * K + k] * column[k];
      result[i * N + j] = sum;
    }
  }
  return result;
}

const weights = [...floats, 'u4', 'i8'] as const;

function loraLinear(
  { x, weight, A, B, mask, residual, absmax, constants }: OpInputs<'loraLinear', Operand>,
  { y, h }: OpOutputs<'loraLinear', Operand>,
  { scale, maskScale }: OpAttributes<'loraLinear'>,
): void {
  const [outputs, inputs] = weight.check(weights, [-1, -1]).shape;
  const [T] = x.check(floats, [-1, inputs]).shape;
  const [r] = A.check(floats, [-1, inputs]).shape;
  B.check(floats, [outputs, r]);
  h.check(floats, [T, r]);
  y?.check(floats, [T, outputs]);
  const rest = residual?.check(floats, [T, outputs]).values();
  const read = asFactor(x.dtype === 'bf16' || weight.dtype === 'bf16');
  const [rows, a, b] = [x, A, B].map((operand) => read(operand.values()));
  const w = read(numbersOf(weight, absmax, constants));
  const keeps = kept(mask, T, inputs);
  const seen = rows.map((value, i) => (keeps(Math.floor(i / inputs), i % inputs) ? value : 0));
  const factor = mask ? scale * maskScale : scale;
  const down = multiply(seen, (k, j) => a[j * inputs + k], [T, inputs, r]);
  h.store(Float32Array.from(down, (sum) => factor * sum));
  if (!y) return;
  const base = multiply(rows, (k, j) => w[j * inputs + k], [T, inputs, outputs]);
  const update = multiply(read(h.values()), (k, j) => b[j * r + k], [T, r, outputs]);
  y.store(Float32Array.from(base, (sum, i) => sum + update[i] + (rest?.[i] ?? 0)));
}

function loraLinearBackward(
  { dy, weight, A, B, mask, residual, absmax, constants }: OpInputs<'loraLinearBackward', Operand>,
  { dx, dh }: OpOutputs<'loraLinearBackward', Operand>,
  { scale, maskScale }: OpAttributes<'loraLinearBackward'>,
): void {
  const [outputs, inputs] = weight.check(weights, [-1, -1]).shape;
  const [T] = dy.check(floats, [-1, outputs]).shape;
  const [r] = A.check(floats, [-1, inputs]).shape;
  B.check(floats, [outputs, r]);
  dh.check(floats, [T, r]);
  dx.check(floats, [T, inputs]);
  const rest = residual?.check(floats, [T, inputs]).values();
  const read = asFactor(dy.dtype === 'bf16' || weight.dtype === 'bf16');
  const [rows, a, b] = [dy, A, B].map((operand) => read(operand.values()));
  const w = read(numbersOf(weight, absmax, constants));
  const inner = multiply(rows, (k, j) => b[k * r + j], [T, outputs, r]);
  dh.store(Float32Array.from(inner, (sum) => scale * sum));
  const base = multiply(rows, (k, j) => w[k * inputs + j], [T, outputs, inputs]);
  const update = multiply(read(dh.values()), (k, j) => a[k * inputs + j], [T, r, inputs]);
  const keeps = kept(mask, T, inputs);
  const factor = mask ? maskScale : 1;
  const masked = (i: number) => (keeps(Math.floor(i / inputs), i % inputs) ? factor * update[i] : 0);
  dx.store(Float32Array.from(base, (sum, i) => sum + masked(i) + (rest?.[i] ?? 0)));
}

/** out = alpha · op(a) · op(b) (+ out), as `matmul` has it. */
export function multiplyMatrices(
  { a, b, absmax, constants }: OpInputs<'matmul', Operand>,
  out: Operand,
  { transposeA, transposeB, alpha, accumulate }: OpAttributes<'matmul'>,
): void {
  a.check(floats, [-1, -1]);
  const [M, K] = transposeA ? [a.shape[1], a.shape[0]] : a.shape;
  b.check(weights, transposeB ? [-1, K] : [K, -1]);
  const N = transposeB ? b.shape[0] : b.shape[1];
  out.check(floats, [M, N]);
  const read = asFactor(a.dtype === 'bf16' || b.dtype === 'bf16');
  const [x, y] = [read(a.values()), read(numbersOf(b, absmax, constants))];
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
}

export const products: Kernels<'matmul' | 'loraLinear' | 'loraLinearBackward' | 'loraGradients' | 'addBias' | 'columnSum'> = {
  matmul: (inputs, { out }, attributes) => multiplyMatrices(inputs, out, attributes),
  loraLinear,
  loraLinearBackward,
  loraGradients: ({ x, h, dy, dh, mask }, { dA, dB }, { maskScale }) => {
    const [T, inputs] = x.check(floats, [-1, -1]).shape;
    const [, outputs] = dy.check(floats, [T, -1]).shape;
    const [, r] = h.check(floats, [T, -1]).shape;
    dh.check(floats, [T, r]);
    dA.check(floats, [r, inputs]);
    dB.check(floats, [outputs, r]);
    const keeps = kept(mask, T, inputs);
    const transposed = (matrix: Float32Array, columns: number) =>
      Float32Array.from({ length: matrix.length }, (_, i) => matrix[(i % T) * columns + Math.floor(i / T)]);
    const [hidden, inner] = factors(dh, x);
    const factor = mask ? maskScale : 1;
    const sums = multiply(transposed(hidden, r), (t, j) => (keeps(t, j) ? inner[t * inputs + j] : 0), [r, T, inputs]);
    dA.store(Float32Array.from(sums, (sum) => factor * sum));
    const [upper, outer] = factors(h, dy);
    dB.store(Float32Array.from(multiply(transposed(outer, outputs), (t, j) => upper[t * r + j], [outputs, T, r])));
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
