import { bins } from '../../quant/dynamic-map.js';
import { decodeFourBit, decodeRows, type FourBitParts, fourBitConstantsSize, fourBitParts, isBlockSize } from '../../quant/four-bit.js';
import { floats, type Kernels, type Operand } from './operand.js';

const anyFloats = [...floats, 'f16'] as const;

const { fround } = Math;
const smallest = fround(1e-38);

/** x·y + z of f32 numbers, rounded once. */
export const fma = (x: number, y: number, z: number) => fround(x * y + z);

/** The numbers of a weight, f32, quantised or not. */
export function numbersOf(weight: Operand, absmax: Operand | undefined, constants: Operand | undefined): Float32Array {
  if (weight.dtype !== 'u4' && weight.dtype !== 'i8') return weight.values();
  const [rows, columns] = weight.check(['u4', 'i8'], [-1, -1]).shape;
  if (!absmax) weight.refuse('the weight has no absmax');
  const numbers = new Float32Array(weight.size);
  if (weight.dtype === 'i8') {
    decodeRows(new Int8Array(weight.raw()), absmax.check(['f32'], [rows]).values(), columns, 0, numbers);
    return numbers;
  }
  if (!constants) weight.refuse('the weight has no constants');
  const blocks = Math.ceil(weight.size / checkConstants(constants).blockSize);
  const nested = constants.size > fourBitConstantsSize();
  absmax.check(nested ? ['u8'] : ['f32'], [blocks]);
  decodeFourBit(weight.raw(), nested ? absmax.raw() : absmax.values(), constants.values(), 0, numbers);
  return numbers;
}

function checkConstants(constants: Operand): FourBitParts {
  const numbers = constants.check(['f32'], [-1]).values();
  const least = fourBitConstantsSize();
  if (numbers.length < least) constants.refuse(`has ${numbers.length} numbers`, `at least ${least}`);
  const parts = fourBitParts(numbers);
  checkBlockSize(constants, parts.blockSize);
  if (numbers.length > least) checkBlockSize(constants, parts.nestedBlockSize);
  return parts;
}

function checkBlockSize(operand: Operand, size: number): void {
  if (!isBlockSize(size)) operand.refuse(`a block size of ${size}`, 'a power of two from 32 to 65536');
}

/** Stores the codes of numbers in blocks, by bins, and each block's largest magnitude. */
export function encodeBins(numbers: Float32Array, blockSize: number, codeOf: Operand, codes: Operand, absmax: Operand): void {
  const [into, scales, code] = [codes.raw(), absmax.values(), codeOf.raw()];
  scales.forEach((_, block) => {
    const begin = block * blockSize;
    const part = numbers.subarray(begin, begin + blockSize);
    const largest = part.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    const inverse = fround(1 / largest);
    scales[block] = largest;
    part.forEach((x, i) => {
      const scaled = fround(x * inverse);
      const inside = Math.min(Math.max(scaled, -1), 1);
      into[begin + i] = largest === 0 ? 0 : code[Math.floor(fma(fround(inside + 1) / 2, bins - 1, 0.5))];
    });
  });
}

export const quantizers: Kernels<'quantize4bit' | 'quantize8bit' | 'quantizeRows' | 'dequantize'> = {
  quantize4bit: ({ x, constants }, { out, absmax }) => {
    const numbers = x.check(anyFloats).values();
    const { blockSize, values } = checkConstants(constants);
    const codes = out.check(['u4'], x.shape).raw();
    const scales = absmax.check(['f32'], [Math.ceil(x.size / blockSize)]).values();
    const order = Array.from(values, (_, code) => code).sort((a, b) => values[a] - values[b]);
    const middles = order.slice(1).map((code, i) => fround(fround(values[order[i]] + values[code]) / 2));
    const nearest = (scaled: number) => order[middles.filter((middle) => !(middle >= scaled)).length];
    codes.fill(x.size % 2 ? nearest(0) : 0, codes.length - 1);
    scales.forEach((_, block) => {
      const begin = block * blockSize;
      const part = numbers.subarray(begin, begin + blockSize);
      const largest = part.reduce((most, number) => Math.max(most, Math.abs(number)), 0);
      const divisor = Math.max(largest, smallest);
      const whole = part.length === blockSize;
      scales[block] = whole ? largest : divisor;
      const scaled = (number: number) => fround(whole ? number * fround(1 / divisor) : number / divisor);
      part.forEach((number, i) => {
        const code = nearest(Math.min(Math.max(scaled(number), -1), 1));
        const at = (begin + i) >> 1;
        codes[at] = i % 2 ? (codes[at] & 0xf0) | code : (code << 4) | (codes[at] & 15);
      });
    });
  },
  quantize8bit: ({ x, codes }, { out, absmax }, { blockSize, offset }) => {
    checkBlockSize(x, blockSize);
    const numbers = x.check(['f32'], [-1]).values();
    codes.check(['u8'], [bins]);
    out.check(['u8'], x.shape);
    absmax.check(['f32'], [Math.ceil(x.size / blockSize)]);
    encodeBins(
      numbers.map((number) => number - fround(offset)),
      blockSize,
      codes,
      out,
      absmax,
    );
  },
  quantizeRows: ({ x }, { out, absmax }) => {
    const [rows, columns] = x.check(anyFloats, [-1, -1]).shape;
    const numbers = x.values();
    const codes = out.check(['i8'], x.shape).raw();
    const scales = absmax.check(['f32'], [rows]).values();
    scales.forEach((_, row) => {
      const part = numbers.subarray(row * columns, (row + 1) * columns);
      scales[row] = part.reduce((most, number) => Math.max(most, Math.abs(number)), 0);
      const factor = fround(fround(1 / Math.max(scales[row], fround(1e-36))) * 127);
      part.forEach((number, i) => {
        codes[row * columns + i] = roundToEven(Math.min(Math.max(fround(number * factor), -127), 127));
      });
    });
  },
  dequantize: ({ weight, absmax, constants }, { out }) => {
    out.check(anyFloats, weight.shape).store(numbersOf(weight, absmax, constants));
  },
};

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}
