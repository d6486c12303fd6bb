import { z } from 'zod';
import { decoderSizes, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

const gguf = usualGguf('phi3');

/** Phi3ForCausalLM: Phi-3, 3.5 and 4, with fused projections (https://huggingface.co/docs/transformers/model_doc/phi3). */
export const phi3 = defineFamily({
  modelType: 'phi3',
  models: 'Phi-3, 3.5, 4',
  architecture: 'Phi3ForCausalLM',
  paths: usualPaths,
  defaultTargets: ['qkv_proj', 'o_proj'],
  schema: withHeads(
    decoderSizes.extend({
      hidden_act: z.literal('silu').default('silu'),
      rms_norm_eps: z.number().positive().default(1e-5),
      sliding_window: z.number().int().positive().nullish(),
    }),
  ),
  parts: usualDecoder((c) => ({ fused: true, window: c.sliding_window ?? 0 })),
  gguf: {
    ...gguf,
    config: { architectures: ['Phi3ForCausalLM'], model_type: 'phi3', hidden_act: 'silu' },
    numbers: { 'attention.sliding_window': 'sliding_window' },
    modules: { ...gguf.modules, 'blk.attn_qkv': 'self_attn.qkv_proj', 'blk.ffn_up': 'mlp.gate_up_proj' },
  },
  shapes: shapesOf('phi3', {
    'phi-3-mini': [3072, 8192, 32, 32, 32, 32064],
    'phi-3.5-mini': [3072, 8192, 32, 32, 32, 32064],
    'phi-4': [5120, 17920, 40, 40, 10, 100352],
    'phi-4-mini': [3072, 8192, 32, 24, 8, 200064, { tie_word_embeddings: true, partial_rotary_factor: 0.75 }],
  }),
});
