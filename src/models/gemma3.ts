import { z } from 'zod';
import { ropeParameters } from '../nn/rotary.js';
import type { JsonObject } from '../util/json.js';
import { size, windowOfType, withHeads } from './config.js';
import { defineFamily, shapesOf, usualPaths } from './family.js';
import { cappedScales, cappedSizes, gemmaNorms, gemmaNormsGguf } from './gemma2.js';
import { likeLlava, textPartOf } from './text-part.js';
import { usualDecoder } from './usual.js';

const gguf = gemmaNormsGguf('gemma3');
const head_dim = 256;

/** The positions of layers that see everything, and of those that see a window. */
const twoRopes = z
  .looseObject({ full_attention: z.looseObject({}).optional(), sliding_attention: z.looseObject({}).optional() })
  .transform(({ full_attention: full, sliding_attention: sliding, ...plain }, context) => {
    const parse = (parameters: Record<string, unknown>, rope_theta: number) => {
      const result = ropeParameters.safeParse({ rope_type: 'default', ...parameters, rope_theta: parameters.rope_theta ?? rope_theta });
      if (result.success) return result.data;
      for (const { message, path } of result.error.issues) context.addIssue({ code: 'custom', message, path });
      return z.NEVER;
    };
    return { full: parse(full ?? plain, 1_000_000), sliding: parse(sliding ?? {}, 10_000) };
  });

/** Gemma3ForCausalLM: the text models of 270M and 1B (https://huggingface.co/docs/transformers/model_doc/gemma3). */
export const gemma3 = defineFamily({
  modelType: 'gemma3_text',
  models: 'Gemma 3 270M, 1B (text)',
  architecture: 'Gemma3ForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    cappedSizes.extend({
      // The text_config of published multimodal models says only what differs from transformers' defaults.
      vocab_size: size.default(262_208),
      hidden_size: size.default(2304),
      intermediate_size: size.default(9216),
      num_hidden_layers: size.default(26),
      num_attention_heads: size.default(8),
      num_key_value_heads: size.default(4),
      max_position_embeddings: size.default(131_072),
      sliding_window_pattern: z.number().int().positive().default(6),
      rope_local_base_freq: z.number().positive().nullish(),
      rope_parameters: twoRopes,
    }),
  ).transform(({ rope_parameters: ropes, rope_local_base_freq: local, ...c }) => ({
    ...c,
    rope_parameters: ropes.full,
    slidingRope: local ? { ...ropes.sliding, rope_theta: local } : ropes.sliding,
  })),
  parts: usualDecoder((c, index) => {
    const window = windowOfType(c, index) ?? ((index + 1) % c.sliding_window_pattern === 0 ? 0 : (c.sliding_window ?? 4096));
    return {
      window,
      rope: window > 0 ? c.slidingRope : c.rope_parameters,
      norms: gemmaNorms,
      normOffset: 1,
      attentionBias: c.attention_bias,
      activation: 'gelu_tanh',
      queryNorms: 'each head',
      // llama.cpp's files leave it out, as Gemma 2's.
      attentionScale: (c.query_pre_attn_scalar ?? (c.num_hidden_layers === 62 ? c.hidden_size / c.num_attention_heads : 256)) ** -0.5,
      attentionSoftcap: c.attn_logit_softcapping ?? 0,
    };
  }, cappedScales),
  gguf: {
    ...gguf,
    config: { architectures: ['Gemma3ForCausalLM'], model_type: 'gemma3_text', hidden_activation: 'gelu_pytorch_tanh' },
    numbers: { 'attention.sliding_window': 'sliding_window' },
    modules: {
      ...gguf.modules,
      'blk.attn_q_norm': 'self_attn.q_norm',
      'blk.attn_k_norm': 'self_attn.k_norm',
    },
  },
  shapes: shapesOf('gemma3_text', {
    'gemma-3-270m': [640, 2048, 18, 4, 1, 262144, { head_dim, sliding_window: 512 }],
    'gemma-3-1b': [1152, 6912, 26, 4, 1, 262144, { head_dim, sliding_window: 512 }],
  }),
});

const multimodal = (text_config: JsonObject): JsonObject => ({
  model_type: 'gemma3',
  text_config: { model_type: 'gemma3_text', ...text_config },
});

/** Gemma3ForConditionalGeneration: the text part of 4B to 27B, which see images. Text alone is read causally there, too. */
export const gemma3Multimodal = textPartOf(
  { gemma3_text: gemma3 },
  {
    ...likeLlava,
    modelType: 'gemma3',
    models: 'Gemma 3 4B, 12B, 27B (their text part)',
    architecture: 'Gemma3ForConditionalGeneration',
    shapes: {
      'gemma-3-4b': multimodal({ hidden_size: 2560, intermediate_size: 10240, num_hidden_layers: 34, sliding_window: 1024 }),
      'gemma-3-12b': multimodal({
        hidden_size: 3840,
        intermediate_size: 15360,
        num_hidden_layers: 48,
        num_attention_heads: 16,
        num_key_value_heads: 8,
        sliding_window: 1024,
      }),
      'gemma-3-27b': multimodal({
        hidden_size: 5376,
        intermediate_size: 21504,
        num_hidden_layers: 62,
        num_attention_heads: 32,
        num_key_value_heads: 16,
        head_dim: 128,
        query_pre_attn_scalar: 168,
        sliding_window: 1024,
      }),
    },
  },
);
