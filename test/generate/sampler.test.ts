import { describe, expect, test } from 'vitest';
import { checkSampling, type SamplingOptions, sampleToken } from '../../src/generate/sampler.js';
import { Random } from '../../src/util/philox.js';

const logits = () => Float32Array.of(1, 3, 2, -1, 2.9);

/** Which tokens come up in many draws, and how often. */
function draws(options: SamplingOptions, n = 4000): Map<number, number> {
  const random = new Random(5, 1);
  const counts = new Map<number, number>();
  for (let i = 0; i < n; i++) {
    const id = sampleToken(logits(), [], options, random);
    counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  return counts;
}
const chosen = (options: SamplingOptions) => [...draws(options).keys()].sort();

describe('sampling', () => {
  test('temperature 0 takes the largest logit, the first of equals', () => {
    expect(sampleToken(logits(), [], {}, new Random(1, 1))).toBe(1);
    expect(sampleToken(Float32Array.of(2, 5, 5), [], { temperature: 0 }, new Random(1, 1))).toBe(1);
  });

  test('temperature 1 draws with the softmax’s probabilities', () => {
    const counts = draws({ temperature: 1 }, 40_000);
    const weights = [...logits()].map(Math.exp);
    const total = weights.reduce((a, b) => a + b);
    weights.forEach((weight, id) => {
      expect(Math.abs((counts.get(id) ?? 0) / 40_000 - weight / total)).toBeLessThan(0.01);
    });
  });

  test('a low temperature sharpens', () => {
    expect(draws({ temperature: 0.02 }).get(1)).toBeGreaterThan(3900);
  });

  test('top_k, top_p and min_p cut off', () => {
    expect(chosen({ temperature: 5, top_k: 2 })).toEqual([1, 4]);
    // The softmax is 0.057, 0.419, 0.154, 0.008, 0.379: token 1 alone does not reach 0.5, tokens 1 and 4 do.
    expect(chosen({ temperature: 1, top_p: 0.5 })).toEqual([1, 4]);
    expect(chosen({ temperature: 1, top_p: 0.4 })).toEqual([1]);
    expect(chosen({ temperature: 1, min_p: 0.3 })).toEqual([1, 2, 4]);
    expect(chosen({ temperature: 1, min_p: 0.99 })).toEqual([1]);
  });

  test('the repetition penalty divides positive logits and multiplies negative ones', () => {
    expect(sampleToken(logits(), [1, 1], { repetition_penalty: 1.5 }, new Random(1, 1))).toBe(4);
    const negative = Float32Array.of(-1, -1.5);
    expect(sampleToken(negative, [0], { repetition_penalty: 2 }, new Random(1, 1))).toBe(1);
  });

  test.each<[string, SamplingOptions]>([
    ['temperature', { temperature: -1 }],
    ['temperature', { temperature: Number.NaN }],
    ['top_k', { top_k: 1.5 }],
    ['top_p', { top_p: 0 }],
    ['min_p', { min_p: 2 }],
    ['repetition_penalty', { repetition_penalty: 0 }],
  ])('a wrong %s is refused', (name, options) => {
    expect(() => checkSampling(options)).toThrow(name);
  });
});
