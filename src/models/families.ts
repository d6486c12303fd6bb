import type { GgufLayout } from '../io/gguf-layout.js';
import { LowrankError, nearest } from '../util/errors.js';
import type { JsonObject } from '../util/json.js';
import { cohere } from './cohere.js';
import type { Family } from './family.js';
import { gemma } from './gemma.js';
import { gemma2 } from './gemma2.js';
import { gemma3, gemma3Multimodal } from './gemma3.js';
import { glm, glm4 } from './glm4.js';
import { gptNeox } from './gpt-neox.js';
import { gpt2 } from './gpt2.js';
import { granite } from './granite.js';
import { lfm2 } from './lfm2.js';
import { llama } from './llama.js';
import { ministral, mistral, mistral3 } from './mistral.js';
import { mixtral } from './mixtral.js';
import { olmo2 } from './olmo2.js';
import { olmoe } from './olmoe.js';
import { phi } from './phi.js';
import { phi3 } from './phi3.js';
import { qwen2, qwen2Vl } from './qwen2.js';
import { qwen3, qwen3Vl } from './qwen3.js';
import { qwen3Moe } from './qwen3-moe.js';
import { smollm3 } from './smollm3.js';
import { stablelm } from './stablelm.js';
import { starcoder2 } from './starcoder2.js';

/** Every family that can be loaded: a new one is a file and a line here. */
const families = new Map(
  [
    llama,
    mistral,
    ministral,
    mistral3,
    mixtral,
    qwen2,
    qwen2Vl,
    qwen3,
    qwen3Vl,
    qwen3Moe,
    smollm3,
    olmo2,
    olmoe,
    granite,
    phi,
    phi3,
    gemma,
    gemma2,
    gemma3,
    gemma3Multimodal,
    glm,
    glm4,
    gptNeox,
    gpt2,
    starcoder2,
    stablelm,
    cohere,
    lfm2,
  ].map((family): [string, Family] => [family.modelType, family]),
);

/** Makes a family of your own known, in the place of one of the same `model_type`. */
export function registerFamily(family: Family): void {
  families.set(family.modelType, family);
}

/** All of them, in the order of the list. */
export function allFamilies(): readonly Family[] {
  return [...families.values()];
}

export function modelTypes(): string[] {
  return [...families.keys()];
}

/** The family of a config.json, where it is known. */
export function findFamily(config: Readonly<Record<string, unknown>>): Family | undefined {
  return typeof config.model_type === 'string' ? families.get(config.model_type) : undefined;
}

/** What a family's file has to say, for those whose model is of none. */
const whatToDescribe =
  'one file with the schema of its config.json, its layer, the paths of its parts and its default targets (docs/add-a-model.md)';

/** The family of the model `name`; throws where its `model_type` is not known. */
export function familyOf(config: Readonly<Record<string, unknown>>, name: string): Family {
  const family = findFamily(config);
  if (family) return family;
  const type = typeof config.model_type === 'string' ? config.model_type : '';
  const near = nearest(type, families.keys());
  throw new LowrankError(`model_type "${type}" is not supported`, {
    place: `${name}: config.json`,
    expected: modelTypes().join(', '),
    mend: `${near ? `if it is one, write "${near}"; else ` : ''}choose a model of one of these, or describe its family: ${whatToDescribe}`,
  });
}

/** How GGUF files hold the families that llama.cpp knows. */
export function ggufLayouts(): GgufLayout[] {
  return [...families.values()].flatMap(({ gguf }) => gguf ?? []);
}

/** The config.json of published models by name, in lower case. */
export function publishedShapes(): Map<string, JsonObject> {
  return new Map([...families.values()].flatMap(({ shapes }) => Object.entries(shapes)));
}
