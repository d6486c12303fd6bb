/**
 * Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
 * Its value depends only on (key, counter), so that a dropout mask is the same in TypeScript, C++ and WGSL, and for any
 * number of threads. Key = (seed, stream); counter = (index, step, 0, 0).
 */
export function philox(out: Uint32Array, seed: number, stream: number, index: number, step: number): void {
  let c0 = index >>> 0;
  let c1 = step >>> 0;
  let c2 = 0;
  let c3 = 0;
  let k0 = seed >>> 0;
  let k1 = stream >>> 0;
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(c0, 0xd2511f53);
    const low0 = Math.imul(c0, 0xd2511f53) >>> 0;
    const high1 = multiplyHigh(c2, 0xcd9e8d57);
    const low1 = Math.imul(c2, 0xcd9e8d57) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** The upper 32 bits of a 32 × 32-bit product. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  // Each sum is below 2^32, so the shifts lose nothing.
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = (middle & 0xffff) + aLow * bHigh;
  return (aHigh * bHigh + (middle >>> 16) + (carry >>> 16)) >>> 0;
}

/** A sequence of random numbers of one (seed, stream). Streams of one seed are independent. */
export class Random {
  private readonly block = new Uint32Array(4);
  private readonly seed: number;
  private readonly stream: number;
  private drawn = 0;

  constructor(seed: number, stream: number) {
    this.seed = seed;
    this.stream = stream;
  }

  /** A number in [0, 1) with 24 random bits, exact in f32. */
  next(): number {
    const lane = this.drawn % 4;
    if (lane === 0) philox(this.block, this.seed, this.stream, Math.floor(this.drawn / 4), 0);
    this.drawn++;
    return (this.block[lane] >>> 8) * 2 ** -24;
  }

  /** A standard normal number (Box-Muller). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.next()));
    return radius * Math.cos(2 * Math.PI * this.next());
  }

  /** Shuffles in place (Fisher-Yates) and returns the array. */
  shuffle<T>(array: T[]): T[] {
    for (let i = array.length - 1; i > 0; i--) {
      const j = Math.floor(this.next() * (i + 1));
      [array[i], array[j]] = [array[j], array[i]];
    }
    return array;
  }
}

/** Where each use of random numbers begins among the streams of one seed, so that no two uses share numbers. */
export const streams = { shuffle: 0x1000_0000, init: 0x2000_0000, dropout: 0x3000_0000, sampling: 0x4000_0000 } as const;
