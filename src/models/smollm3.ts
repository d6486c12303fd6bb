import { z } from 'zod';
import { biasedSizes, slidingWindow, windowOfType, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

/** SmolLM3ForCausalLM, every fourth layer of which is told no positions (https://huggingface.co/docs/transformers/model_doc/smollm3). */
export const smollm3 = defineFamily({
  modelType: 'smollm3',
  models: 'SmolLM3',
  architecture: 'SmolLM3ForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    biasedSizes.extend({
      ...slidingWindow,
      use_sliding_window: z.boolean().default(false),
      /** 1 for each layer that rotates. */
      no_rope_layers: z.array(z.number()).nullish(),
      no_rope_layer_interval: z.number().int().positive().default(4),
    }),
  ),
  parts: usualDecoder((c, index) => ({
    attentionBias: c.attention_bias,
    mlpBias: c.mlp_bias,
    rope: (c.no_rope_layers?.[index] ?? (index + 1) % c.no_rope_layer_interval) ? undefined : null,
    window: c.use_sliding_window ? windowOfType(c, index) : 0,
  })),
  gguf: {
    ...usualGguf('smollm3'),
    config: { architectures: ['SmolLM3ForCausalLM'], model_type: 'smollm3', hidden_act: 'silu' },
    permuted: { 'blk.attn_q': 'num_attention_heads', 'blk.attn_k': 'num_key_value_heads' },
  },
  shapes: shapesOf('smollm3', { 'smollm3-3b': [2048, 11008, 36, 16, 4, 128256, { tie_word_embeddings: true }] }),
});
