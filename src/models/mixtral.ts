import { z } from 'zod';
import { balancing, decoderSizes, expertsPerToken, size, slidingWindow, withHeads } from './config.js';
import { defineFamily, expertsGguf, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

// llama.cpp writes it as a Llama with experts.
const gguf = usualGguf('llama');

/** MixtralForCausalLM: Mistral with a mixture of experts (https://huggingface.co/docs/transformers/model_doc/mixtral). */
export const mixtral = defineFamily({
  modelType: 'mixtral',
  models: 'Mixtral 8x7B, 8x22B',
  architecture: 'MixtralForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    decoderSizes.extend({
      ...balancing,
      ...slidingWindow,
      hidden_act: z.literal('silu').default('silu'),
      rms_norm_eps: z.number().positive().default(1e-5),
      num_local_experts: size.max(4096).default(8),
      num_experts_per_tok: size.default(2),
    }),
  ).check(expertsPerToken('num_local_experts')),
  parts: usualDecoder((c) => ({
    window: c.sliding_window ?? 0,
    mixture: {
      experts: c.num_local_experts,
      perToken: c.num_experts_per_tok,
      width: c.intermediate_size,
      normalize: true,
      balancing: c,
      block: 'block_sparse_moe',
      gate: 'w1',
      up: 'w3',
      down: 'w2',
    },
  })),
  gguf: {
    ...gguf,
    experts: true,
    config: { architectures: ['MixtralForCausalLM'], model_type: 'mixtral', hidden_act: 'silu' },
    numbers: { expert_count: 'num_local_experts', expert_used_count: 'num_experts_per_tok' },
    modules: { ...gguf.modules, ...expertsGguf('block_sparse_moe', 'w1', 'w3', 'w2') },
    permuted: { 'blk.attn_q': 'num_attention_heads', 'blk.attn_k': 'num_key_value_heads' },
  },
  shapes: shapesOf('mixtral', {
    'mixtral-8x7b': [4096, 14336, 32, 32, 8, 32000, { num_local_experts: 8 }],
    'mixtral-8x22b': [6144, 16384, 56, 48, 8, 32768, { num_local_experts: 8 }],
  }),
});
