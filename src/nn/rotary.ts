import { z } from 'zod';
import type { Backend } from '../core/backend.js';
import { unscoped } from '../core/scope.js';
import { fromArray } from '../core/tensor.js';
import type { RopeTables } from '../ops/index.js';
import { LowrankError } from '../util/errors.js';

const positive = z.number().positive().finite();
const positiveInteger = z.number().int().positive();
const common = { rope_theta: positive.default(10000), partial_rotary_factor: z.number().positive().max(1).default(1) };

/** `rope_parameters` of config.json (before transformers 5: `rope_scaling` and `rope_theta`), by kind of scaling. */
export const ropeParameters = z.discriminatedUnion('rope_type', [
  z.object({ rope_type: z.literal('default'), ...common }),
  z.object({ rope_type: z.literal('linear'), factor: positive, ...common }),
  z.object({ rope_type: z.literal('dynamic'), factor: positive, ...common }),
  z.object({
    rope_type: z.literal('llama3'),
    factor: positive,
    low_freq_factor: positive,
    high_freq_factor: positive,
    original_max_position_embeddings: positiveInteger,
    ...common,
  }),
  z.object({
    rope_type: z.literal('longrope'),
    short_factor: z.array(positive).max(4096),
    long_factor: z.array(positive).max(4096),
    factor: positive.nullish(),
    original_max_position_embeddings: positiveInteger,
    attention_factor: positive.nullish(),
    ...common,
  }),
  z.object({
    rope_type: z.literal('yarn'),
    factor: positive,
    original_max_position_embeddings: positiveInteger,
    attention_factor: positive.nullish(),
    beta_fast: positive.nullish(),
    beta_slow: positive.nullish(),
    mscale: z.number().nullish(),
    mscale_all_dim: z.number().nullish(),
    truncate: z.boolean().default(true),
    ...common,
  }),
]);
export type RopeParameters = z.output<typeof ropeParameters>;

/** Angles per position and dimension pair, and the factor of cosine and sine that yarn asks for. */
interface Frequencies {
  inverse: Float64Array;
  attentionFactor: number;
}

/** Rotary position tables for one model, grown as longer sequences come. Formulas: transformers' modeling_rope_utils.py. */
export class RotaryEmbedding {
  private readonly backend: Backend;
  private readonly parameters: RopeParameters;
  private readonly headDim: number;
  private readonly maxPositions: number;
  private tables?: RopeTables & { length: number; scaledLength: number };

  /** `maxPositions` is max_position_embeddings, which dynamic scaling starts from. */
  constructor(backend: Backend, parameters: RopeParameters, headDim: number, maxPositions: number) {
    this.backend = backend;
    this.parameters = parameters;
    this.headDim = headDim;
    this.maxPositions = maxPositions;
  }

  /** Tables that cover positions 0 … length−1. */
  upTo(length: number): RopeTables {
    const scaledLength = this.scaledLength(length);
    if (this.tables && this.tables.length >= length && this.tables.scaledLength === scaledLength) return this.tables;
    this.dispose();
    const rows = this.parameters.rope_type === 'dynamic' ? length : 2 ** Math.ceil(Math.log2(Math.max(64, length)));
    const { inverse, attentionFactor } = frequencies(this.parameters, this.headDim, this.maxPositions, scaledLength);
    const pairs = inverse.length;
    const cos = new Float32Array(rows * pairs);
    const sin = new Float32Array(rows * pairs);
    for (let position = 0; position < rows; position++) {
      for (let d = 0; d < pairs; d++) {
        // The product is rounded to f32 as PyTorch does, so that long positions get the same angles.
        const angle = Math.fround(position * Math.fround(inverse[d]));
        cos[position * pairs + d] = Math.cos(angle) * attentionFactor;
        sin[position * pairs + d] = Math.sin(angle) * attentionFactor;
      }
    }
    const upload = (values: Float32Array) => fromArray(this.backend, values, [rows, pairs], 'f32', 'constants');
    this.tables = unscoped(() => ({ cos: upload(cos), sin: upload(sin), length: rows, scaledLength }));
    return this.tables;
  }

  /**
   * What of the longest sequence of a pass its tables depend on: with dynamic scaling its length, with longrope whether it is a long one.
   */
  private scaledLength(length: number): number {
    const { parameters, maxPositions } = this;
    if (parameters.rope_type === 'dynamic') return Math.max(length, maxPositions);
    return parameters.rope_type === 'longrope' && length > parameters.original_max_position_embeddings ? Number.POSITIVE_INFINITY : 0;
  }

  dispose(): void {
    this.tables?.cos.dispose();
    this.tables?.sin.dispose();
    this.tables = undefined;
  }
}

function frequencies(parameters: RopeParameters, headDim: number, maxPositions: number, scaledLength: number): Frequencies {
  const dim = Math.floor(headDim * parameters.partial_rotary_factor);
  const powers = (base: number) => Float64Array.from({ length: dim / 2 }, (_, i) => base ** ((-2 * i) / dim));
  const theta = parameters.rope_theta;
  switch (parameters.rope_type) {
    case 'default':
      return { inverse: powers(theta), attentionFactor: 1 };
    case 'linear':
      return { inverse: powers(theta).map((f) => f / parameters.factor), attentionFactor: 1 };
    case 'dynamic': {
      const stretch = (parameters.factor * scaledLength) / maxPositions - (parameters.factor - 1);
      return { inverse: powers(theta * stretch ** (dim / (dim - 2))), attentionFactor: 1 };
    }
    case 'llama3':
      return { inverse: powers(theta).map((f) => llama3(f, parameters)), attentionFactor: 1 };
    case 'longrope':
      return longrope(powers(theta), parameters, maxPositions, scaledLength > 0);
    case 'yarn':
      return yarn(powers(theta), dim, parameters);
  }
}

/** Long wavelengths are stretched by `factor`, short ones kept, those between blended (Llama 3.1). */
function llama3(frequency: number, p: RopeParameters & { rope_type: 'llama3' }): number {
  const turns = (p.original_max_position_embeddings * frequency) / (2 * Math.PI);
  if (turns > p.high_freq_factor) return frequency;
  if (turns < p.low_freq_factor) return frequency / p.factor;
  const smooth = (turns - p.low_freq_factor) / (p.high_freq_factor - p.low_freq_factor);
  return ((1 - smooth) * frequency) / p.factor + smooth * frequency;
}

/** Ding et al. 2024: each frequency has a divisor of its own, one for short sequences and one for long ones. */
function longrope(inverse: Float64Array, p: RopeParameters & { rope_type: 'longrope' }, maxPositions: number, long: boolean): Frequencies {
  const divisors = long ? p.long_factor : p.short_factor;
  if (divisors.length !== inverse.length) {
    throw new LowrankError(`${long ? 'long' : 'short'}_factor has ${divisors.length} numbers`, {
      place: 'config.json: rope_parameters',
      expected: `${inverse.length}, one for each frequency`,
      mend: 'use the config.json that belongs to the model',
    });
  }
  const stretch = p.factor ?? maxPositions / p.original_max_position_embeddings;
  const inferred = stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(p.original_max_position_embeddings));
  return { inverse: inverse.map((frequency, i) => frequency / divisors[i]), attentionFactor: p.attention_factor ?? inferred };
}

/** Peng et al. 2023, §3.2 and §3.4. */
function yarn(inverse: Float64Array, dim: number, p: RopeParameters & { rope_type: 'yarn' }): Frequencies {
  const dimensionOf = (rotations: number) =>
    (dim * Math.log(p.original_max_position_embeddings / (rotations * 2 * Math.PI))) / (2 * Math.log(p.rope_theta));
  let low = dimensionOf(p.beta_fast ?? 32);
  let high = dimensionOf(p.beta_slow ?? 1);
  if (p.truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, dim - 1);
  if (low === high) high += 0.001;
  const blended = inverse.map((frequency, i) => {
    const interpolated = Math.min(1, Math.max(0, (i - low) / (high - low)));
    return (frequency / p.factor) * interpolated + frequency * (1 - interpolated);
  });
  const magnitude = (m: number) => (p.factor <= 1 ? 1 : 0.1 * m * Math.log(p.factor) + 1);
  const inferred = p.mscale && p.mscale_all_dim ? magnitude(p.mscale) / magnitude(p.mscale_all_dim) : magnitude(1);
  return { inverse: blended, attentionFactor: p.attention_factor ?? inferred };
}
