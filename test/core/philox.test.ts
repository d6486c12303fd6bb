import { expect, test } from 'vitest';
import { philox, Random } from '../../src/util/philox.js';

/** Philox4x32-10 of a whole counter (Salmon et al. 2011, figure 4 and §3.3), in exact integers. */
function philox4x32(counter: readonly number[], key: readonly number[]): number[] {
  const word = (n: bigint) => BigInt.asUintN(32, n);
  let [c0, c1, c2, c3] = counter.map(BigInt);
  let [k0, k1] = key.map(BigInt);
  for (let round = 0; round < 10; round++) {
    const [first, second] = [c0 * 0xd2511f53n, c2 * 0xcd9e8d57n];
    [c0, c1, c2, c3] = [(second >> 32n) ^ c1 ^ k0, word(second), (first >> 32n) ^ c3 ^ k1, word(first)];
    [k0, k1] = [word(k0 + 0x9e3779b9n), word(k1 + 0xbb67ae85n)];
  }
  return [c0, c1, c2, c3].map(Number);
}

const ones = 0xffff_ffff;

// https://github.com/DEShawResearch/random123/blob/main/tests/kat_vectors, the lines "philox4x32 10".
test.each([
  [
    [0, 0, 0, 0],
    [0, 0],
    [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
  ],
  [
    [ones, ones, ones, ones],
    [ones, ones],
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  ],
  [
    [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    [0xa4093822, 0x299f31d0],
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  ],
])('the exact Philox gives Random123’s known answer for counter %s', (counter, key, answer) => {
  expect(philox4x32(counter, key)).toEqual(answer);
});

test('the generator is Philox4x32-10 with key (seed, stream) and counter (index, step, 0, 0)', () => {
  const words = new Uint32Array(4);
  const numbers = [0, 1, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xd251_1f53, 0xfffe_ffff, ones];
  for (const [i, seed] of numbers.entries()) {
    for (const [j, index] of numbers.entries()) {
      const [stream, step] = [numbers[(i + j) % numbers.length], numbers[(i + 2 * j + 1) % numbers.length]];
      philox(words, seed, stream, index, step);
      expect([...words]).toEqual(philox4x32([index, step, 0, 0], [seed, stream]));
    }
  }
});

test('a sequence takes the words of one counter after the other', () => {
  const random = new Random(7, 9);
  const drawn = Array.from({ length: 9 }, () => random.next());
  const words = [0, 1, 2].flatMap((index) => philox4x32([index, 0, 0, 0], [7, 9]));
  expect(drawn).toEqual(words.slice(0, 9).map((word) => (word >>> 8) / 2 ** 24));
});

test('uniform and normal numbers have their moments, shuffles keep the elements', () => {
  const random = new Random(1, 2);
  const mean = (values: number[], power: number) => values.reduce((sum, x) => sum + x ** power, 0) / values.length;
  const uniform = Array.from({ length: 40_000 }, () => random.next());
  expect(Math.min(...uniform)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...uniform)).toBeLessThan(1);
  expect(mean(uniform, 1)).toBeCloseTo(1 / 2, 2);
  expect(mean(uniform, 2)).toBeCloseTo(1 / 3, 2);
  const normal = Array.from({ length: 40_000 }, () => random.normal());
  expect(mean(normal, 1)).toBeCloseTo(0, 1);
  expect(mean(normal, 2)).toBeCloseTo(1, 1);
  expect(Math.abs(mean(normal, 4) - 3)).toBeLessThan(0.2);
  const order = random.shuffle([...Array(50).keys()]);
  expect(order).not.toEqual([...Array(50).keys()]);
  expect(order.sort((a, b) => a - b)).toEqual([...Array(50).keys()]);
});
