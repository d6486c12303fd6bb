import { z } from 'zod';
import { biasedSizes, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

const factor = z.number().positive().default(1);

/** GraniteForCausalLM: Granite 3, Llama with four factors (https://huggingface.co/docs/transformers/model_doc/granite). */
export const granite = defineFamily({
  modelType: 'granite',
  models: 'Granite 3',
  architecture: 'GraniteForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    biasedSizes.extend({
      embedding_multiplier: factor,
      attention_multiplier: factor,
      residual_multiplier: factor,
      logits_scaling: factor,
    }),
  ),
  parts: usualDecoder(
    (c) => ({
      attentionBias: c.attention_bias,
      mlpBias: c.mlp_bias,
      attentionScale: c.attention_multiplier,
      residualScale: c.residual_multiplier,
    }),
    (c) => ({ embeddingScale: c.embedding_multiplier, logitScale: 1 / c.logits_scaling }),
  ),
  gguf: {
    ...usualGguf('granite'),
    config: { architectures: ['GraniteForCausalLM'], model_type: 'granite', hidden_act: 'silu' },
    permuted: { 'blk.attn_q': 'num_attention_heads', 'blk.attn_k': 'num_key_value_heads' },
    numbers: {
      'attention.scale': 'attention_multiplier',
      embedding_scale: 'embedding_multiplier',
      residual_scale: 'residual_multiplier',
      logit_scale: 'logits_scaling',
    },
  },
  shapes: shapesOf('granite', {
    'granite-3.3-2b': [2048, 8192, 40, 32, 8, 49159, { tie_word_embeddings: true }],
    'granite-3.3-8b': [4096, 12800, 40, 32, 8, 49159, { tie_word_embeddings: true }],
  }),
});
