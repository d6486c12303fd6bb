/** Numbers of 4 bits in blocks with a common scale: NF4 (Dettmers et al. 2023, QLoRA, §3) and FP4, as bitsandbytes has them. */

export type FourBitType = 'nf4' | 'fp4';

/** Quantiles of a normal distribution (QLoRA, appendix E): each code stands for as many of normally distributed weights. */
const nf4 = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
  0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
  0.7229568362236023, 1,
];

/** A sign, two bits of exponent and one of mantissa, scaled to end at 1. Code 8 is a second zero. */
const fp4 = [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4];

/** The number that each code stands for [16]. */
export const fourBitValues: Readonly<Record<FourBitType, Float32Array>> = {
  nf4: Float32Array.from(nf4),
  fp4: Float32Array.from([...fp4, ...fp4.map((value) => 0 - value)]),
};

/** Numbers whose scales share a scale, where scales are quantised too. */
export const nestedBlockSize = 256;

/** Numbers of the nested map: the codes of a scale. */
const nestedCodes = 256;

/**
 * Where the numbers of a 4-bit weight's `constants` begin: the block size, the values of the 16 codes and, where the scales are codes too,
 * the number of scales that share a scale, the offset, the values of their 256 codes and the scales of scales, which go to the end.
 */
export const fourBitLayout = {
  blockSize: 0,
  values: 1,
  nestedBlockSize: 17,
  offset: 18,
  nestedValues: 19,
  nestedAbsmax: 19 + nestedCodes,
} as const;

/** How many numbers `constants` has; `blocks` is that of the weight's scales, where those are codes. */
export function fourBitConstantsSize(blocks?: number): number {
  const { nestedBlockSize: plain, nestedAbsmax } = fourBitLayout;
  return blocks === undefined ? plain : nestedAbsmax + Math.ceil(blocks / nestedBlockSize);
}

/** The scales of scales. */
export interface NestedScales {
  /** The mean of the scales, subtracted before they are quantised. */
  readonly offset: number;
  /** [256] ascending */
  readonly values: Float32Array;
  /** One for each 256 scales. */
  readonly absmax: Float32Array;
  readonly blockSize?: number;
}

/** The `constants` operand of a 4-bit weight. */
export function fourBitConstants(values: Float32Array, blockSize: number, nested?: NestedScales): Float32Array {
  const at = fourBitLayout;
  const constants = new Float32Array(nested ? at.nestedAbsmax + nested.absmax.length : at.nestedBlockSize);
  constants[at.blockSize] = blockSize;
  constants.set(values, at.values);
  if (!nested) return constants;
  constants[at.nestedBlockSize] = nested.blockSize ?? nestedBlockSize;
  constants[at.offset] = nested.offset;
  constants.set(nested.values, at.nestedValues);
  constants.set(nested.absmax, at.nestedAbsmax);
  return constants;
}

/** What `constants` say. All but the first two are there only where scales are codes too. */
export interface FourBitParts {
  readonly blockSize: number;
  readonly values: Float32Array;
  readonly nestedBlockSize: number;
  readonly offset: number;
  readonly nestedValues: Float32Array;
  readonly nestedAbsmax: Float32Array;
}

/** Takes `constants` apart; the arrays share their memory. */
export function fourBitParts(constants: Float32Array): FourBitParts {
  const at = fourBitLayout;
  return {
    blockSize: constants[at.blockSize],
    values: constants.subarray(at.values, at.nestedBlockSize),
    nestedBlockSize: constants[at.nestedBlockSize],
    offset: constants[at.offset],
    nestedValues: constants.subarray(at.nestedValues, at.nestedAbsmax),
    nestedAbsmax: constants.subarray(at.nestedAbsmax),
  };
}

/** Whether blocks of this size are known to the ops. */
export function isBlockSize(size: unknown): size is number {
  return typeof size === 'number' && size >= 32 && size <= 65536 && Number.isInteger(Math.log2(size));
}

/** The numbers of u4 codes: first to last element, two codes in a byte, the first in the upper half. */
export function decodeFourBit(
  codes: Uint8Array,
  absmax: Float32Array | Uint8Array,
  constants: Float32Array,
  first: number,
  target: Float32Array,
): void {
  const parts = fourBitParts(constants);
  const { blockSize, values } = parts;
  for (let i = 0; i < target.length; ) {
    const block = Math.floor((first + i) / blockSize);
    const end = Math.min(target.length, (block + 1) * blockSize - first);
    const scale = absmax instanceof Float32Array ? absmax[block] : nestedScale(absmax[block], block, parts);
    for (; i < end; i++) {
      const pair = codes[(first + i) >>> 1];
      target[i] = values[(first + i) % 2 ? pair & 15 : pair >> 4] * scale;
    }
  }
}

function nestedScale(code: number, block: number, { nestedBlockSize, offset, nestedValues, nestedAbsmax }: FourBitParts): number {
  const product = Math.fround(nestedValues[code] * nestedAbsmax[Math.floor(block / nestedBlockSize)]);
  return Math.fround(product + offset);
}

/** The numbers of i8 codes with a scale per row. */
export function decodeRows(codes: Int8Array, absmax: Float32Array, columns: number, first: number, target: Float32Array): void {
  const unit = Math.fround(1 / 127);
  for (let i = 0; i < target.length; i++) target[i] = Math.fround(codes[first + i] * absmax[Math.floor((first + i) / columns)]) * unit;
}

const lanes = 8;
const rows = 4;

/**
 * The mean of f32 numbers, added up in PyTorch's order, which decides its last bits (sum_kernel.cpp, a contiguous reduction in one thread):
 * 8 lanes × 4 rows of partial sums, each in four levels of a cascade.
 */
export function meanAsTorch(x: Float32Array): number {
  const { fround } = Math;
  const width = lanes * rows;
  const steps = Math.floor(x.length / width);
  const power = Math.max(4, Math.floor(Math.ceil(Math.log2(Math.max(1, steps))) / 4));
  const levels = Array.from({ length: 4 }, () => new Float32Array(width));
  let step = 0;
  const add = () => {
    for (let i = 0; i < width; i++) levels[0][i] += x[step * width + i];
    step++;
  };
  while (step + 2 ** power <= steps) {
    for (let i = 0; i < 2 ** power; i++) add();
    for (let level = 1; level < 4; level++) {
      for (let i = 0; i < width; i++) levels[level][i] += levels[level - 1][i];
      levels[level - 1].fill(0);
      if (step % 2 ** ((level + 1) * power) !== 0) break;
    }
  }
  while (step < steps) add();
  const sums = levels[0];
  for (const level of levels.slice(1)) for (let i = 0; i < width; i++) sums[i] += level[i];
  // The vectors that are left go to the first row, then rows and at last lanes are joined; single numbers come before the lanes.
  const vectors = Math.floor(x.length / lanes);
  for (let v = steps * rows; v < vectors; v++) for (let i = 0; i < lanes; i++) sums[i] += x[v * lanes + i];
  for (let row = 1; row < rows; row++) for (let i = 0; i < lanes; i++) sums[i] += sums[row * lanes + i];
  let sum = 0;
  for (let i = vectors * lanes; i < x.length; i++) sum = fround(sum + x[i]);
  for (let i = 0; i < lanes; i++) sum = fround(sum + sums[i]);
  return fround(sum / x.length);
}
