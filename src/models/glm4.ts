import { z } from 'zod';
import { decoderSizes, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

const schema = withHeads(
  decoderSizes.extend({
    hidden_act: z.literal('silu').default('silu'),
    attention_bias: z.boolean().default(false),
    rms_norm_eps: z.number().positive().default(1.5625e-7),
  }),
);
const gguf = usualGguf('glm4');
const facts = { paths: usualPaths, defaultTargets: ['q_proj', 'v_proj'], schema };

/** GlmForCausalLM: GLM-4 9B of 2024; neighbours turn together (https://huggingface.co/docs/transformers/model_doc/glm). */
export const glm = defineFamily({
  ...facts,
  modelType: 'glm',
  models: 'GLM-4 9B (2024)',
  architecture: 'GlmForCausalLM',
  parts: usualDecoder((c) => ({ attentionBias: c.attention_bias && 'qkv', fused: 'mlp', interleaved: true })),
  shapes: shapesOf('glm', { 'glm-4-9b': [4096, 13696, 40, 32, 2, 151552, { attention_bias: true, partial_rotary_factor: 0.5 }] }),
});

/** Glm4ForCausalLM: GLM-4 9B and 32B of 2025, with norms behind attention and MLP as well. */
export const glm4 = defineFamily({
  ...facts,
  modelType: 'glm4',
  models: 'GLM-4 9B, 32B (2025)',
  architecture: 'Glm4ForCausalLM',
  parts: usualDecoder((c) => ({
    attentionBias: c.attention_bias && 'qkv',
    fused: 'mlp',
    interleaved: true,
    norms: {
      beforeAttention: 'input_layernorm',
      afterAttention: 'post_self_attn_layernorm',
      beforeMlp: 'post_attention_layernorm',
      afterMlp: 'post_mlp_layernorm',
    },
  })),
  gguf: {
    ...gguf,
    config: { architectures: ['Glm4ForCausalLM'], model_type: 'glm4', hidden_act: 'silu' },
    modules: {
      ...gguf.modules,
      'blk.ffn_up': 'mlp.gate_up_proj',
      'blk.post_attention_norm': 'post_self_attn_layernorm',
      'blk.post_ffw_norm': 'post_mlp_layernorm',
    },
  },
  shapes: shapesOf('glm4', {
    'glm-4-9b-0414': [4096, 13696, 40, 32, 2, 151552, { attention_bias: true, partial_rotary_factor: 0.5 }],
    'glm-4-32b-0414': [6144, 23040, 61, 48, 2, 151552, { head_dim: 128, partial_rotary_factor: 0.5 }],
  }),
});
