import { z } from 'zod';
import { decoderSizes, ropeOfPart, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

/** StableLmForCausalLM, a quarter of whose heads turns (https://huggingface.co/docs/transformers/model_doc/stablelm). */
export const stablelm = defineFamily({
  modelType: 'stablelm',
  models: 'StableLM 2, 3B',
  architecture: 'StableLmForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    decoderSizes.extend({
      hidden_act: z.literal('silu').default('silu'),
      layer_norm_eps: z.number().positive().default(1e-5),
      use_qkv_bias: z.boolean().default(false),
      use_parallel_residual: z.boolean().default(false),
      qk_layernorm: z.literal(false).nullish(),
      rope_parameters: ropeOfPart(0.25),
    }),
  ).transform((c) => ({ ...c, rms_norm_eps: c.layer_norm_eps })),
  parts: usualDecoder((c) => ({
    attentionBias: c.use_qkv_bias && 'qkv',
    layerNorm: 'with bias',
    norms: { beforeAttention: 'input_layernorm', beforeMlp: c.use_parallel_residual ? undefined : 'post_attention_layernorm' },
    parallel: c.use_parallel_residual,
  })),
  gguf: {
    ...usualGguf('stablelm'),
    config: { architectures: ['StableLmForCausalLM'], model_type: 'stablelm', hidden_act: 'silu' },
    flags: { use_parallel_residual: 'use_parallel_residual' },
    renamed: { rms_norm_eps: 'layer_norm_eps', attention_bias: 'use_qkv_bias' },
  },
  shapes: shapesOf('stablelm', {
    'stablelm-2-1.6b': [2048, 5632, 24, 32, 32, 100352, { use_qkv_bias: true }],
    'stablelm-3b': [2560, 6912, 32, 32, 32, 50304],
  }),
});
