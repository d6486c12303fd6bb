import { findFamily, modelTypes, publishedShapes } from '../models/families.js';
import { type Shape, shapesOf } from '../models/family.js';
import { LowrankError, nearest } from '../util/errors.js';
import type { JsonObject } from '../util/json.js';
import { countParameters } from './dry-run.js';

/**
 * Families that can be planned and not yet loaded, each under its model_type: what their config.json on the hub says.
 * The tests hold the published counts of parameters.
 */
const planned: Readonly<Record<string, Readonly<Record<string, Shape>>>> = {
  gemma2: {
    'gemma-2-2b': [2304, 9216, 26, 8, 4, 256000, { head_dim: 256 }],
    'gemma-2-9b': [3584, 14336, 42, 16, 8, 256000, { head_dim: 256 }],
    'gemma-2-27b': [4608, 36864, 46, 32, 16, 256000, { head_dim: 128 }],
  },
};

/** In what a family's layers differ from Llama's, as transformers' modelling files have them. */
interface Differences {
  /** A bias on q, k and v whatever config.json says. */
  qkvBias?: true;
  /** A norm over each head of q and of k. */
  headNorms?: true;
  /** Norms behind attention and MLP, besides those before them. */
  postNorms?: true;
  /** Whether the head is the embedding where config.json does not say. */
  tied?: true;
}

const differences: Readonly<Record<string, Differences>> = {
  gemma2: { postNorms: true, tied: true },
};

/** The config.json of known shapes by name. */
function knownShapes(): Map<string, JsonObject> {
  const shapes = publishedShapes();
  for (const [model_type, rows] of Object.entries(planned))
    for (const [name, config] of Object.entries(shapesOf(model_type, rows))) shapes.set(name, config);
  return shapes;
}

export function shapeNames(): string[] {
  return [...knownShapes().keys()];
}

/** The config.json of a shape that is known under this name, whatever the case of its letters. */
export function knownShape(name: string): JsonObject | undefined {
  return knownShapes().get(name.toLowerCase());
}

/** The error for a model that is neither a known shape nor found in any other way. */
export function unknownShape(name: string, cause: unknown): LowrankError {
  const near = nearest(name.toLowerCase(), shapeNames());
  return new LowrankError(`"${name}" is neither a model that can be opened nor a known shape`, {
    place: '--model',
    expected: `a folder, an id of the hub, or one of ${shapeNames().join(', ')}`,
    mend: near ? `write "${near}"` : 'name one of these, or a folder with a config.json',
    cause,
  });
}

/** What can be planned with, and its exact number of parameters. */
export interface PlanModel {
  /** Of a family that is not built yet a Llama of the same sizes: what it adds takes next to no memory. */
  readonly config: JsonObject;
  readonly parameters: number;
}

/** Counts the parameters of the model that a config.json describes. */
export function planModel(config: JsonObject, name: string): PlanModel {
  if (findFamily(config)) return { config, parameters: countParameters(config, name) };
  return likeLlama(config, name);
}

/** Reads the sizes in the config.json of a family that is not built yet. */
function likeLlama(config: JsonObject, name: string): PlanModel {
  const place = `${name}: config.json`;
  const type = String(config.model_type);
  const family = Object.hasOwn(differences, type) ? differences[type] : undefined;
  if (!family) {
    throw new LowrankError(`the parameters of model_type "${type}" cannot be counted`, {
      place,
      expected: [...modelTypes(), ...Object.keys(differences)].join(', '),
      mend: 'plan with a known shape that is about as large',
    });
  }
  const size = (key: string, otherwise?: number): number => {
    const value = config[key] ?? otherwise;
    if (!Number.isSafeInteger(value) || (value as number) < 1 || (value as number) > 2 ** 24)
      throw new LowrankError(`${key} is ${JSON.stringify(value)}`, { place, expected: 'a size', mend: 'use the model’s own config.json' });
    return value as number;
  };
  const [C, F, L, H, V] = ['hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads', 'vocab_size'].map((key) =>
    size(key),
  );
  const G = size('num_key_value_heads', H);
  const D = size('head_dim', C / H);
  const tied = config.tie_word_embeddings ?? family.tied ?? false;
  const qkv = family.qkvBias === true || config.attention_bias === true;
  const biases =
    (qkv ? (H + 2 * G) * D : 0) + (config.attention_bias === true && !family.qkvBias ? C : 0) + (config.mlp_bias === true ? 2 * F + C : 0);
  const norms = (family.postNorms ? 4 : 2) * C + (family.headNorms ? 2 * D : 0);
  const layer = 2 * C * H * D + 2 * C * G * D + 3 * C * F + biases + norms;
  const parameters = L * layer + C + V * C * (tied ? 1 : 2);
  const sizes = { hidden_size: C, intermediate_size: F, num_hidden_layers: L, num_attention_heads: H, num_key_value_heads: G };
  const rest = {
    head_dim: D,
    vocab_size: V,
    max_position_embeddings: size('max_position_embeddings', 131_072),
    tie_word_embeddings: Boolean(tied),
  };
  return {
    config: { model_type: 'llama', ...sizes, ...rest, attention_bias: qkv, mlp_bias: config.mlp_bias === true, rope_theta: 10_000 },
    parameters,
  };
}
