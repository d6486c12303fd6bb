import { f16Table } from '../util/half.js';

/**
 * The block types of GGUF files (layouts: ggml/src/ggml-common.h of ggml-org/llama.cpp). A row is a whole number of blocks. Inside a block
 * numbers are little-endian; `d` is a scale and `m` a minimum, both f16 unless said otherwise; x is the decoded element, q what is stored.
 */
export interface BlockType {
  readonly name: string;
  /** Elements per block. */
  readonly elements: number;
  /** Bytes per block. */
  readonly bytes: number;
  /** Decodes whole blocks to f32; bit for bit what ggml's reference computes. Absent where elements are stored plainly. */
  readonly decode?: (source: Uint8Array, target: Float32Array) => void;
}

/** The types that can be read, by the number that a file stores. */
export const blockTypes: ReadonlyMap<number, BlockType> = new Map<number, BlockType>([
  [0, { name: 'F32', elements: 1, bytes: 4 }],
  [1, { name: 'F16', elements: 1, bytes: 2 }],
  [30, { name: 'BF16', elements: 1, bytes: 2 }],
  [2, { name: 'Q4_0', elements: 32, bytes: 18, decode: decodeQ4_0 }],
  [3, { name: 'Q4_1', elements: 32, bytes: 20, decode: decodeQ4_1 }],
  [6, { name: 'Q5_0', elements: 32, bytes: 22, decode: decodeQ5_0 }],
  [7, { name: 'Q5_1', elements: 32, bytes: 24, decode: decodeQ5_1 }],
  [8, { name: 'Q8_0', elements: 32, bytes: 34, decode: decodeQ8_0 }],
  [10, { name: 'Q2_K', elements: 256, bytes: 84, decode: decodeQ2_K }],
  [11, { name: 'Q3_K', elements: 256, bytes: 110, decode: decodeQ3_K }],
  [12, { name: 'Q4_K', elements: 256, bytes: 144, decode: decodeQ4_K }],
  [13, { name: 'Q5_K', elements: 256, bytes: 176, decode: decodeQ5_K }],
  [14, { name: 'Q6_K', elements: 256, bytes: 210, decode: decodeQ6_K }],
]);

/** Names of types that exist but cannot be read here, for messages. */
export const otherBlockTypes: ReadonlyMap<number, string> = new Map(
  Object.entries({
    Q8_1: 9,
    Q8_K: 15,
    IQ2_XXS: 16,
    IQ2_XS: 17,
    IQ3_XXS: 18,
    IQ1_S: 19,
    IQ4_NL: 20,
    IQ3_S: 21,
    IQ2_S: 22,
    IQ4_XS: 23,
    I8: 24,
    I16: 25,
    I32: 26,
    I64: 27,
    F64: 28,
    IQ1_M: 29,
    TQ1_0: 34,
    TQ2_0: 35,
    MXFP4: 39,
    NVFP4: 40,
    Q1_0: 41,
  }).map(([name, id]) => [id, name]),
);

/** {d, 16 bytes}: x = d (q − 8); the low nibbles are elements 0…15, the high ones 16…31. */
function decodeQ4_0(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 18, out += 32) {
    const d = half[source[at] | (source[at + 1] << 8)];
    for (let i = 0; i < 16; i++) {
      const q = source[at + 2 + i];
      target[out + i] = d * ((q & 15) - 8);
      target[out + 16 + i] = d * ((q >> 4) - 8);
    }
  }
}

/** {d, m, 16 bytes}: x = d q + m; nibbles as in Q4_0. */
function decodeQ4_1(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 20, out += 32) {
    const d = half[source[at] | (source[at + 1] << 8)];
    const m = half[source[at + 2] | (source[at + 3] << 8)];
    for (let i = 0; i < 16; i++) {
      const q = source[at + 4 + i];
      target[out + i] = d * (q & 15) + m;
      target[out + 16 + i] = d * (q >> 4) + m;
    }
  }
}

/** {d, u32 of fifth bits, 16 bytes}: x = d (q − 16); bit i of the u32 belongs to element i. */
function decodeQ5_0(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 22, out += 32) {
    const d = half[source[at] | (source[at + 1] << 8)];
    for (let i = 0; i < 16; i++) {
      const q = source[at + 6 + i];
      const low = (source[at + 2 + (i >> 3)] >> (i & 7)) & 1;
      const high = (source[at + 4 + (i >> 3)] >> (i & 7)) & 1;
      target[out + i] = d * (((q & 15) | (low << 4)) - 16);
      target[out + 16 + i] = d * (((q >> 4) | (high << 4)) - 16);
    }
  }
}

/** {d, m, u32 of fifth bits, 16 bytes}: x = d q + m. */
function decodeQ5_1(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 24, out += 32) {
    const d = half[source[at] | (source[at + 1] << 8)];
    const m = half[source[at + 2] | (source[at + 3] << 8)];
    for (let i = 0; i < 16; i++) {
      const q = source[at + 8 + i];
      const low = (source[at + 4 + (i >> 3)] >> (i & 7)) & 1;
      const high = (source[at + 6 + (i >> 3)] >> (i & 7)) & 1;
      target[out + i] = d * ((q & 15) | (low << 4)) + m;
      target[out + 16 + i] = d * ((q >> 4) | (high << 4)) + m;
    }
  }
}

/** {d, 32 × i8}: x = d q. */
function decodeQ8_0(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 34, out += 32) {
    const d = half[source[at] | (source[at + 1] << 8)];
    for (let i = 0; i < 32; i++) target[out + i] = d * ((source[at + 2 + i] << 24) >> 24);
  }
}

/**
 * {16 bytes of scales, 64 bytes, d, m}: x = d s q − m t, s and t the low and high nibble of the scale of each 16 elements. Each half of
 * 128 elements has 32 bytes, whose bit pairs belong to elements 0…31, 32…63, 64…95, 96…127.
 */
function decodeQ2_K(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 84, out += 256) {
    const d = half[source[at + 80] | (source[at + 81] << 8)];
    const m = half[source[at + 82] | (source[at + 83] << 8)];
    for (let group = 0; group < 16; group++) {
      const scale = d * (source[at + group] & 15);
      const minimum = m * (source[at + group] >> 4);
      const bytes = at + 16 + (group >> 3) * 32 + (group & 1) * 16;
      const shift = group & 6;
      for (let i = 0; i < 16; i++) target[out + group * 16 + i] = scale * ((source[bytes + i] >> shift) & 3) - minimum;
    }
  }
}

/**
 * {32 bytes of third bits, 64 bytes, 12 bytes of scales, d}: x = d (s − 32) (q − 4), q without its third bit laid out as in Q2_K. Bit b of
 * byte i belongs to element 32 b + i. The 6-bit scales: low nibbles of 8 bytes, then the high ones; then bit pairs, four of each byte.
 */
function decodeQ3_K(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 110, out += 256) {
    const d = half[source[at + 108] | (source[at + 109] << 8)];
    for (let group = 0; group < 16; group++) {
      const low = (source[at + 96 + (group & 7)] >> (4 * (group >> 3))) & 15;
      const high = (source[at + 104 + (group & 3)] >> (2 * (group >> 2))) & 3;
      const scale = d * ((low | (high << 4)) - 32);
      const within = (group & 1) * 16;
      const bytes = at + 32 + (group >> 3) * 32 + within;
      const shift = group & 6;
      for (let i = 0; i < 16; i++) {
        const third = (source[at + within + i] >> (group >> 1)) & 1;
        target[out + group * 16 + i] = scale * ((((source[bytes + i] >> shift) & 3) | (third << 2)) - 4);
      }
    }
  }
}

/** The 6-bit scale of one of eight groups in Q4_K and Q5_K: 12 bytes, four groups plainly, the others from what is left over. */
function scaleOf(source: Uint8Array, at: number, group: number): number {
  if (group < 4) return source[at + group] & 63;
  return (source[at + group + 4] & 15) | ((source[at + group - 4] >> 2) & 48);
}

/** The 6-bit minimum, likewise. */
function minimumOf(source: Uint8Array, at: number, group: number): number {
  if (group < 4) return source[at + group + 4] & 63;
  return (source[at + group + 4] >> 4) | ((source[at + group] >> 2) & 48);
}

/** {d, m, 12 bytes of scales and minima, 128 bytes}: x = d s q − m t per 32 elements; low nibbles are even groups, high ones odd. */
function decodeQ4_K(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 144, out += 256) {
    const d = half[source[at] | (source[at + 1] << 8)];
    const m = half[source[at + 2] | (source[at + 3] << 8)];
    for (let group = 0; group < 8; group++) {
      const scale = d * scaleOf(source, at + 4, group);
      const minimum = m * minimumOf(source, at + 4, group);
      const bytes = at + 16 + (group >> 1) * 32;
      const shift = (group & 1) * 4;
      for (let i = 0; i < 32; i++) target[out + group * 32 + i] = scale * ((source[bytes + i] >> shift) & 15) - minimum;
    }
  }
}

/** {d, m, 12 bytes of scales and minima, 32 bytes of fifth bits, 128 bytes}: as Q4_K; bit g of byte i belongs to element i of group g. */
function decodeQ5_K(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 176, out += 256) {
    const d = half[source[at] | (source[at + 1] << 8)];
    const m = half[source[at + 2] | (source[at + 3] << 8)];
    for (let group = 0; group < 8; group++) {
      const scale = d * scaleOf(source, at + 4, group);
      const minimum = m * minimumOf(source, at + 4, group);
      const bytes = at + 48 + (group >> 1) * 32;
      const shift = (group & 1) * 4;
      for (let i = 0; i < 32; i++) {
        const fifth = (source[at + 16 + i] >> group) & 1;
        target[out + group * 32 + i] = scale * (((source[bytes + i] >> shift) & 15) | (fifth << 4)) - minimum;
      }
    }
  }
}

/**
 * {128 bytes, 64 bytes of fifth and sixth bits, 16 × i8 scales, d}: x = d s (q − 32), a scale per 16 elements. Each half of 128 elements
 * has 64 bytes, low nibbles first, and 32 bytes of bit pairs laid out as in Q2_K.
 */
function decodeQ6_K(source: Uint8Array, target: Float32Array): void {
  const half = f16Table();
  for (let at = 0, out = 0; at < source.length; at += 210, out += 256) {
    const d = half[source[at + 208] | (source[at + 209] << 8)];
    for (let group = 0; group < 16; group++) {
      const scale = d * ((source[at + 192 + group] << 24) >> 24);
      const bytes = at + (group >> 3) * 64 + (group & 3) * 16;
      const shift = group & 4;
      const pairs = at + 128 + (group >> 3) * 32 + (group & 1) * 16;
      const pairShift = group & 6;
      for (let i = 0; i < 16; i++) {
        const q = ((source[bytes + i] >> shift) & 15) | (((source[pairs + i] >> pairShift) & 3) << 4);
        target[out + group * 16 + i] = scale * (q - 32);
      }
    }
  }
}
