import { LowrankError } from '../util/errors.js';
import type { Random } from '../util/philox.js';

/** The names are those of transformers' GenerationConfig. */
export interface SamplingOptions {
  /** 0 takes the most probable token. */
  temperature?: number;
  /** Only the k most probable tokens; 0 for all. */
  top_k?: number;
  /** Only the most probable tokens whose probabilities reach this sum (Holtzman et al. 2020). */
  top_p?: number;
  /** Only tokens at least this fraction as probable as the most probable one. */
  min_p?: number;
  /** Logits of tokens seen so far are divided (where positive) or multiplied by it (Keskar et al. 2019); 1 for none. */
  repetition_penalty?: number;
}

/** Throws where a value makes no sense. */
export function checkSampling(options: SamplingOptions): void {
  const { temperature = 0, top_k = 0, top_p = 1, min_p = 0, repetition_penalty = 1 } = options;
  const rules: [string, number, boolean, string][] = [
    ['temperature', temperature, temperature >= 0, 'a number of at least 0'],
    ['top_k', top_k, Number.isInteger(top_k) && top_k >= 0, 'a whole number of at least 0'],
    ['top_p', top_p, top_p > 0 && top_p <= 1, 'above 0 and at most 1'],
    ['min_p', min_p, min_p >= 0 && min_p <= 1, 'from 0 to 1'],
    ['repetition_penalty', repetition_penalty, repetition_penalty > 0, 'a positive number'],
  ];
  for (const [name, value, valid, expected] of rules) {
    if (!valid || !Number.isFinite(value)) throw new LowrankError(`is ${value}`, { place: name, expected, mend: 'correct it' });
  }
}

/** Whether a choice needs nothing but the largest logit. */
export function isGreedy({ temperature = 0, repetition_penalty = 1 }: SamplingOptions): boolean {
  return temperature === 0 && repetition_penalty === 1;
}

/**
 * Chooses a token from logits [V], which are changed. The order is that of transformers' logits processors: penalty, temperature,
 * top_k, top_p, min_p.
 */
export function sampleToken(logits: Float32Array, seen: Iterable<number>, options: SamplingOptions, random: Random): number {
  const { temperature = 0, top_k = 0, top_p = 1, min_p = 0, repetition_penalty: penalty = 1 } = options;
  if (penalty !== 1) for (const id of new Set(seen)) logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
  if (temperature === 0) return argmax(logits);
  const best = logits[argmax(logits)];
  let candidates = [...logits.keys()];
  if (top_k > 0 || top_p < 1) candidates.sort((a, b) => logits[b] - logits[a] || a - b);
  if (top_k > 0) candidates = candidates.slice(0, top_k);
  const weights = new Map(candidates.map((id) => [id, Math.exp((logits[id] - best) / temperature)]));
  if (top_p < 1) candidates = untilSum(candidates, weights, top_p);
  // The most probable token has weight 1.
  if (min_p > 0) candidates = candidates.filter((id) => weights.get(id)! >= min_p);
  const total = candidates.reduce((sum, id) => sum + weights.get(id)!, 0);
  let left = random.next() * total;
  for (const id of candidates) {
    left -= weights.get(id)!;
    if (left < 0) return id;
  }
  return candidates[candidates.length - 1];
}

/** The shortest beginning of `candidates` whose weights reach the share `top_p` of all. */
function untilSum(candidates: number[], weights: ReadonlyMap<number, number>, top_p: number): number[] {
  const limit = top_p * candidates.reduce((sum, id) => sum + weights.get(id)!, 0);
  let sum = 0;
  const end = candidates.findIndex((id) => {
    sum += weights.get(id)!;
    return sum >= limit;
  });
  return end < 0 ? candidates : candidates.slice(0, end + 1);
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}
