import { binCodes, dynamicMap } from '../../../src/quant/dynamic-map.js';
import { fourBitConstants, fourBitValues, type NestedScales } from '../../../src/quant/four-bit.js';
import { Random } from '../../../src/util/philox.js';
import { bits, type Case, call, type Float, type Given, given, result, ulp, uniform, whole } from '../case.js';

const map = dynamicMap(true);
const bytes = (n: number) => Uint8Array.from(whole([n], 0, 256).values!);
const positive = (n: number): Given => ({ dtype: 'f32', shape: [n], values: Float32Array.from(uniform('f32', [n]).values!, Math.abs) });
const constantsOf = (values: Float32Array, blockSize: number, nested?: NestedScales): Given => {
  const numbers = fourBitConstants(values, blockSize, nested);
  return { dtype: 'f32', shape: [numbers.length], values: numbers };
};

type Kind = 'i8' | 'nf4' | 'fp4 nested';

/** Random codes of a weight and what turns them into numbers below about 1. */
function quantized(kind: Kind, [rows, columns]: readonly number[], blockSize: number) {
  const size = rows * columns;
  if (kind === 'i8') {
    const codes = Int8Array.from(bytes(size));
    return { weight: { dtype: 'i8', shape: [rows, columns], values: codes } as Given, absmax: positive(rows) };
  }
  const weight: Given = { dtype: 'u4', shape: [rows, columns], values: bytes(Math.ceil(size / 2)) };
  const blocks = Math.ceil(size / blockSize);
  if (kind === 'nf4') return { weight, absmax: positive(blocks), constants: constantsOf(fourBitValues.nf4, blockSize) };
  const nested = { offset: 0.4, values: map, absmax: positive(Math.ceil(blocks / 256)).values as Float32Array };
  const absmax: Given = { dtype: 'u8', shape: [blocks], values: bytes(blocks) };
  return { weight, absmax, constants: constantsOf(fourBitValues.fp4, blockSize, nested) };
}

const kinds: readonly Kind[] = ['i8', 'nf4', 'fp4 nested'];

/**
 * Columns in and off the width of a vector; blocks within a row and across rows; more than 256 blocks; panels of columns in pairs; sums in
 * blocks of K, forward and backward.
 */
const weights: readonly [rows: number, columns: number, blockSize: number][] = [
  [1, 1, 32],
  [5, 7, 64],
  [33, 64, 64],
  [47, 96, 32],
  [70, 130, 128],
  [65, 320, 64],
  [3, 45, 4096],
  [64, 192, 64],
  [35, 2880, 64],
  [2880, 64, 64],
];

function* products(): Generator<Case> {
  for (const kind of kinds) {
    for (const [outputs, inputs, blockSize] of weights) {
      for (const [i, [a, out]] of (
        [
          ['bf16', 'bf16'],
          ['f32', 'f32'],
          ['bf16', 'f32'],
        ] as Float[][]
      ).entries()) {
        for (const T of [1, 6, 7, 13, 40]) {
          const { weight, ...rest } = quantized(kind, [outputs, inputs], blockSize);
          const sums = (k: number) => ({ relative: ulp, absolute: 8 * k * ulp });
          const attributes = { transposeA: false, alpha: 1, accumulate: i % 2 === 1 };
          const target = (width: number) => (i % 2 ? uniform(out, [T, width]) : result(out, [T, width]));
          const forward = { a: uniform(a, [T, inputs]), b: weight, ...rest };
          yield call('matmul', forward, { out: target(outputs) }, { ...attributes, transposeB: true }, { out: sums(inputs) });
          const backward = { a: uniform(a, [T, outputs]), b: weight, ...rest };
          yield call('matmul', backward, { out: target(inputs) }, { ...attributes, transposeB: false }, { out: sums(outputs) });
          // The rows of a group, here the last ones.
          const groups = given('i32', [3], [0, Math.floor(T / 3), T]);
          const part = { ...attributes, group: 1 };
          const [y, dx] = [uniform(out, [T, outputs]), uniform(out, [T, inputs])];
          yield call('groupMatmul', { ...forward, groups }, { out: y }, { ...part, transposeB: true }, { out: sums(inputs) });
          yield call('groupMatmul', { ...backward, groups }, { out: dx }, { ...part, transposeB: false }, { out: sums(outputs) });
        }
      }
    }
  }
}

/** A scale that is NaN stays NaN, whatever its other bits are: these would round to a zero. */
function* unusableScale(): Generator<Case> {
  const { weight, absmax, constants } = quantized('nf4', [5, 128], 64);
  const bits = new Uint32Array((absmax.values as Float32Array).slice().buffer);
  bits[2] = 0x7fffffff;
  const operands = { a: uniform('bf16', [1, 128]), b: weight, absmax: { ...absmax, values: new Float32Array(bits.buffer) }, constants };
  const attributes = { transposeA: false, transposeB: true, alpha: 1, accumulate: false };
  yield call('matmul', operands, { out: result('f32', [1, 5]) }, attributes, { out: { relative: ulp, absolute: 1024 * ulp } });
}

function* lowRankProducts(): Generator<Case> {
  for (const kind of kinds) {
    for (const [i, [outputs, inputs, blockSize]] of weights.entries()) {
      for (const [x, T] of [['bf16', 29] as const, ['f32', 5] as const, ['f32', 41] as const]) {
        const rank = 4;
        const parameters = {
          ...quantized(kind, [outputs, inputs], blockSize),
          A: uniform('f32', [rank, inputs]),
          B: uniform('f32', [outputs, rank]),
          mask: i % 2 ? bits(T, inputs) : undefined,
        };
        const attributes = { scale: 0.5, maskScale: 1.25 };
        const tolerance = (k: number) => {
          const h = 8 * k * ulp;
          const side = x === 'bf16' ? 2 ** -7 * Math.sqrt(k) * 2.5 : 0;
          return { h: { relative: ulp, absolute: h }, out: { relative: ulp, absolute: 40 * h + side } };
        };
        const forward = tolerance(inputs);
        const operands = { x: uniform(x, [T, inputs]), ...parameters };
        const results = { y: result(x, [T, outputs]), h: result(x, [T, rank]) };
        yield call('loraLinear', operands, results, attributes, { y: forward.out, h: forward.h });
        const backward = tolerance(outputs);
        const gradients = { dy: uniform(x, [T, outputs]), ...parameters, residual: uniform(x, [T, inputs]) };
        const inputGradients = { dx: result(x, [T, inputs]), dh: result(x, [T, rank]) };
        yield call('loraLinearBackward', gradients, inputGradients, attributes, { dx: backward.out, dh: backward.h });
      }
    }
  }
}

function normal(n: number, size = 1): Float32Array {
  const random = new Random(n, 7);
  return Float32Array.from({ length: n }, () => size * Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next()));
}

/**
 * What a quantiser may meet: blocks of zeros, of one number, of the least and the largest numbers, of numbers in the middle of two codes.
 */
function* numbers(n: number): Generator<Float32Array> {
  yield normal(n);
  yield normal(n).fill(0, 0, Math.min(n, 70));
  yield new Float32Array(n).fill(0.3);
  yield normal(n, 1e-41);
  yield normal(n, 1e38).map((x) => Math.min(Math.max(x, -3e38), 3e38));
  const { nf4 } = fourBitValues;
  yield Float32Array.from({ length: n }, (_, i) => (i % 64 ? (nf4[i % 15] + nf4[(i % 15) + 1]) / 2 : -1));
}

function* quantizations(): Generator<Case> {
  for (const n of [1, 2, 63, 64, 129, 1025, 5000]) {
    for (const values of numbers(n)) {
      for (const blockSize of [32, 64, 2048]) {
        for (const [dtype, type] of [['f32', 'nf4'] as const, ['bf16', 'fp4'] as const]) {
          const operands = { x: { dtype, shape: [n], values }, constants: constantsOf(fourBitValues[type], blockSize) };
          yield call('quantize4bit', operands, { out: result('u4', [n]), absmax: result('f32', [Math.ceil(n / blockSize)]) }, {});
        }
      }
      const codes: Given = { dtype: 'u8', shape: [65536], values: binCodes(map) };
      const attributes = { blockSize: 256, offset: values[0] };
      const outputs = { out: result('u8', [n]), absmax: result('f32', [Math.ceil(n / 256)]) };
      yield call('quantize8bit', { x: { dtype: 'f32', shape: [n], values }, codes }, outputs, attributes);
      const columns = n % 3 === 0 ? 3 : n % 5 === 0 ? 5 : n;
      const x = given('f32', [n / columns, columns], [...values]);
      yield call('quantizeRows', { x }, { out: result('i8', x.shape), absmax: result('f32', [n / columns]) }, {});
    }
  }
  for (const kind of kinds) {
    for (const [rows, columns, blockSize] of weights) {
      for (const dtype of ['f32', 'bf16', 'f16'] as const) {
        const operands = quantized(kind, [rows, columns], blockSize);
        yield call('dequantize', operands, { out: result(dtype, [rows, columns]) }, {});
      }
    }
  }
}

export const quantizeCases: readonly Case[] = [...products(), ...unusableScale(), ...lowRankProducts(), ...quantizations()];
