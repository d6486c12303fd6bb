import { describe, expect, test } from 'vitest';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, fromBf16, fromF16, toBf16, toF16 } from '../../src/util/half.js';

const formats = [
  { name: 'bf16', to: toBf16, from: fromBf16, fromAll: bf16ToF32, toAll: f32ToBf16, exponentBits: 8, infinity: 0x7f80 },
  { name: 'f16', to: toF16, from: fromF16, fromAll: f16ToF32, toAll: f32ToF16, exponentBits: 5, infinity: 0x7c00 },
];

/** The neighbour of an f32 above or below. */
function next(value: number, up: boolean): number {
  const bits = new Int32Array(1);
  const float = new Float32Array(bits.buffer);
  float[0] = value;
  bits[0] += up === value >= 0 ? 1 : -1;
  return float[0];
}

describe.each(formats)('$name', ({ to, from, fromAll, toAll, exponentBits, infinity }) => {
  const mantissaBits = 15 - exponentBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  const all = Uint16Array.from({ length: 65536 }, (_, half) => half);

  test('every pattern is sign · (1 + mantissa) · 2^exponent', () => {
    for (const half of all) {
      const [exponent, mantissa] = [(half & 0x7fff) >> mantissaBits, half & (2 ** mantissaBits - 1)];
      const sign = half & 0x8000 ? -1 : 1;
      const subnormal = mantissa * 2 ** (1 - bias - mantissaBits);
      const normal = exponent === 0 ? subnormal : (2 ** mantissaBits + mantissa) * 2 ** (exponent - bias - mantissaBits);
      const special = mantissa === 0 ? Number.POSITIVE_INFINITY : Number.NaN;
      const value = sign * (exponent === 2 ** exponentBits - 1 ? special : normal);
      if (!Object.is(from(half), value)) expect.fail(`${half.toString(16)} is ${from(half)}, not ${value}`);
    }
  });

  test('every pattern survives the way to f32 and back, one by one and in arrays', () => {
    const values = fromAll(all);
    const back = toAll(values);
    for (const half of all) {
      const same = Number.isNaN(values[half])
        ? Number.isNaN(from(half)) && Number.isNaN(from(to(from(half)))) && Number.isNaN(from(back[half]))
        : Object.is(from(half), values[half]) && to(values[half]) === half && back[half] === half;
      if (!same) expect.fail(`${half.toString(16)} comes back as ${back[half].toString(16)}`);
    }
  });

  test('numbers between two neighbours go to the nearer, halves to the even one', () => {
    for (let half = 0; half < infinity - 1; half++) {
      const middle = (from(half) + from(half + 1)) / 2;
      const even = half % 2 === 0 ? half : half + 1;
      const rounded = [middle, next(middle, false), next(middle, true), -middle].map(to);
      const wanted = [even, half, half + 1, even | 0x8000];
      if (rounded.some((bits, i) => bits !== wanted[i])) expect.fail(`around ${middle}: ${rounded}, wanted ${wanted}`);
    }
  });

  test('overflow becomes infinity, and not before', () => {
    const largest = from(infinity - 1);
    const limit = largest + (largest - from(infinity - 2)) / 2;
    expect(to(next(limit, false))).toBe(infinity - 1);
    expect(to(limit)).toBe(infinity);
    expect(to(-limit)).toBe(infinity | 0x8000);
    expect(to(Number.MAX_VALUE)).toBe(infinity);
    expect(to(Number.NEGATIVE_INFINITY)).toBe(infinity | 0x8000);
    expect(from(to(Number.NaN))).toBeNaN();
  });

  test('half of the smallest number and below become zero with its sign', () => {
    const least = from(1);
    expect([least, next(least / 2, true), least / 2, least / 4, 0].map(to)).toEqual([1, 1, 0, 0, 0]);
    expect([-least, -least / 2, -0].map(to)).toEqual([0x8001, 0x8000, 0x8000]);
  });
});
