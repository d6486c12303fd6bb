import type { z } from 'zod';
import type { Backend } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import type { GgufLayout } from '../io/gguf-layout.js';
import type { Builder } from '../nn/builder.js';
import { Decoder, type DecoderFacts, type DecoderParts } from '../nn/decoder.js';
import type { ModelPaths } from '../nn/model.js';
import type { JsonObject } from '../util/json.js';
import { parseConfig, ropeOf } from './config.js';

/** Everything that is particular to a family of models; the rest of the house asks for it and names none. */
export interface Family {
  /** `model_type` of config.json. */
  readonly modelType: string;
  /** The published models of it, as people call them. */
  readonly models: string;
  /** The class in transformers, for `architectures` of config.json. */
  readonly architecture: string;
  readonly paths: ModelPaths;
  /** Linear layers that adapters take by default: PEFT's TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING where it has the family. */
  readonly defaultTargets: readonly string[];
  /** How llama.cpp's files hold it, where llama.cpp knows it. */
  readonly gguf?: GgufLayout;
  /** config.json of published models by name: what can be planned without a file. */
  readonly shapes: Readonly<Record<string, JsonObject>>;
  /** What stands before the embedding's name in files that call it otherwise than `paths`; default: nothing, as AutoModel saves it. */
  readonly prefixes?: readonly string[];
  /** What files call the head that `paths` call otherwise. */
  readonly storedHead?: string;
  /** Stored tensors without meaning for a model, such as the masks of old files. */
  readonly unused?: RegExp;
  /** Matrices that files hold as [in,out], PEFT's `fan_in_fan_out`, by their names. */
  readonly fanInFanOut?: RegExp;
  /** Of a multimodal model, whose text part alone is built: the paths of its other parts, which are left as they are. */
  readonly otherParts?: readonly string[];
  /** Builds a model from its config.json and what `build` gives; with `whole` as the part of another one that it is. */
  build(config: Readonly<Record<string, unknown>>, build: Builder, backend: Backend, dtype: DType, whole?: DecoderFacts): Decoder;
}

export interface FamilyDefinition<C> extends Omit<Family, 'build'> {
  /** config.json as far as the family needs it; `rope_parameters` are there in the form of transformers 5. */
  readonly schema: z.ZodType<C>;
  /** `paths` are the family's own, or those of its decoder inside a multimodal model. */
  parts(config: C, build: Builder, backend: Backend, paths: ModelPaths): DecoderParts;
}

/** Names without meaning for a model: rotary frequencies, which old checkpoints store. */
const rotaryFrequencies = /rotary_emb\.inv_freq$/;

/**
 * A family of models from what is particular to it: names and facts, the schema of its config.json, and the parts that its decoder is built
 * of.
 */
export function defineFamily<C>({ schema, parts: makeParts, ...facts }: FamilyDefinition<C>): Family {
  return {
    ...facts,
    build(config, build, backend, dtype, whole = { ...facts, config: { architectures: [facts.architecture], ...config } }) {
      const parsed = parseConfig(schema, { ...config, rope_parameters: ropeOf(config) }, build.name);
      const parts = makeParts(parsed, build, backend, whole.paths);
      const model = new Decoder(whole, parts, { backend, dtype, built: build });
      // A tied checkpoint may store the head once more.
      build.finish((name) => rotaryFrequencies.test(name) || (model.tied && name === `${whole.paths.head}.weight`));
      return model;
    },
  };
}

/** The paths of most families. */
export const usualPaths: ModelPaths = {
  embedding: 'model.embed_tokens',
  layers: 'model.layers',
  norm: 'model.norm',
  head: 'lm_head',
};

/** llama.cpp's names of the modules of most families. */
const usualGgufModules = {
  token_embd: 'model.embed_tokens',
  output_norm: 'model.norm',
  output: 'lm_head',
  'blk.attn_norm': 'input_layernorm',
  'blk.attn_q': 'self_attn.q_proj',
  'blk.attn_k': 'self_attn.k_proj',
  'blk.attn_v': 'self_attn.v_proj',
  'blk.attn_output': 'self_attn.o_proj',
  'blk.ffn_norm': 'post_attention_layernorm',
  'blk.ffn_gate': 'mlp.gate_proj',
  'blk.ffn_up': 'mlp.up_proj',
  'blk.ffn_down': 'mlp.down_proj',
} as const;

/** llama.cpp's names of experts, whose paths have a `*` for the number, and of their router. */
export function expertsGguf(block: string, gate: string, up: string, down: string): Record<string, string> {
  const of = (name: string) => `${block}.experts.*.${name}`;
  return { 'blk.ffn_gate_inp': `${block}.gate`, 'blk.ffn_gate_exps': of(gate), 'blk.ffn_up_exps': of(up), 'blk.ffn_down_exps': of(down) };
}

/** How llama.cpp's files hold most families, besides what config.json says of all of one. */
export function usualGguf(architecture: string): Omit<GgufLayout, 'config'> {
  return { architecture, modules: usualGgufModules, layers: usualPaths.layers, permuted: {} };
}

/** C, F, L, H, G, V and what else a config.json says. */
export type Shape = readonly [C: number, F: number, L: number, H: number, G: number, V: number, more?: JsonObject];

/** The config.json of each shape. */
export function shapesOf(model_type: string, shapes: Readonly<Record<string, Shape>>): Record<string, JsonObject> {
  const configOf = ([C, F, L, H, G, V, more]: Shape): JsonObject => ({
    model_type,
    hidden_size: C,
    intermediate_size: F,
    num_hidden_layers: L,
    num_attention_heads: H,
    num_key_value_heads: G,
    vocab_size: V,
    max_position_embeddings: 131_072,
    ...more,
  });
  return Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, configOf(shape)]));
}
