import { findFamily, modelTypes, publishedShapes } from '../models/families.js';
import { type Shape, shapesOf } from '../models/family.js';
import { LowrankError, nearest } from '../util/errors.js';
import type { JsonObject } from '../util/json.js';
import { countParameters } from './dry-run.js';

/** Gemma 2 can be planned and not yet loaded: what its config.json on the hub says. The tests hold the published counts of parameters. */
const gemma2: Readonly<Record<string, Shape>> = {
  'gemma-2-2b': [2304, 9216, 26, 8, 4, 256000, { head_dim: 256 }],
  'gemma-2-9b': [3584, 14336, 42, 16, 8, 256000, { head_dim: 256 }],
  'gemma-2-27b': [4608, 36864, 46, 32, 16, 256000, { head_dim: 128 }],
};

/** The config.json of known shapes by name. */
function knownShapes(): Map<string, JsonObject> {
  return new Map([...publishedShapes(), ...Object.entries(shapesOf('gemma2', gemma2))]);
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

/** Gemma 2: a Llama of the same sizes, with two more norms in each layer. */
function likeLlama(config: JsonObject, name: string): PlanModel {
  if (config.model_type !== 'gemma2') {
    throw new LowrankError(`the parameters of model_type "${config.model_type}" cannot be counted`, {
      place: `${name}: config.json`,
      expected: [...modelTypes(), 'gemma2'].join(', '),
      mend: 'plan with a known shape that is about as large',
    });
  }
  const llama = { tie_word_embeddings: true, ...config, model_type: 'llama', hidden_act: 'silu' };
  const norms = 2 * Number(config.num_hidden_layers) * Number(config.hidden_size);
  return { config: llama, parameters: countParameters(llama, name) + norms };
}
