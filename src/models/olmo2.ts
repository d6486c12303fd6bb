import { z } from 'zod';
import { decoderSizes, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

const gguf = usualGguf('olmo2');

/**
 * Olmo2ForCausalLM, with norms behind attention and MLP instead of before them (https://huggingface.co/docs/transformers/model_doc/olmo2).
 */
export const olmo2 = defineFamily({
  modelType: 'olmo2',
  models: 'OLMo 2',
  architecture: 'Olmo2ForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(decoderSizes.extend({ hidden_act: z.literal('silu').default('silu'), attention_bias: z.boolean().default(false) })),
  parts: usualDecoder((c) => ({
    attentionBias: c.attention_bias,
    norms: { afterAttention: 'post_attention_layernorm', afterMlp: 'post_feedforward_layernorm' },
    queryNorms: 'all heads',
  })),
  gguf: {
    ...gguf,
    config: { architectures: ['Olmo2ForCausalLM'], model_type: 'olmo2', hidden_act: 'silu' },
    modules: {
      ...gguf.modules,
      'blk.attn_q_norm': 'self_attn.q_norm',
      'blk.attn_k_norm': 'self_attn.k_norm',
      'blk.post_attention_norm': 'post_attention_layernorm',
      'blk.post_ffw_norm': 'post_feedforward_layernorm',
    },
  },
  shapes: shapesOf('olmo2', {
    'olmo-2-1b': [2048, 8192, 16, 16, 16, 100352],
    'olmo-2-7b': [4096, 11008, 32, 32, 32, 100352],
    'olmo-2-13b': [5120, 13824, 40, 40, 40, 100352],
  }),
});
