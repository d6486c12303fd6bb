import { z } from 'zod';
import { balancing, decoderSizes, expertsPerToken, size, withHeads } from './config.js';
import { defineFamily, expertsGguf, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

const gguf = usualGguf('olmoe');

/** OlmoeForCausalLM, with norms over all queries and keys (https://huggingface.co/docs/transformers/model_doc/olmoe). */
export const olmoe = defineFamily({
  modelType: 'olmoe',
  models: 'OLMoE',
  architecture: 'OlmoeForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    decoderSizes.extend({
      ...balancing,
      router_aux_loss_coef: balancing.router_aux_loss_coef.unwrap().default(0.01),
      hidden_act: z.literal('silu').default('silu'),
      rms_norm_eps: z.number().positive().default(1e-5),
      attention_bias: z.boolean().default(false),
      clip_qkv: z.null({ error: 'clipped queries and keys are not supported' }).optional(),
      num_experts: size.max(4096).default(64),
      num_experts_per_tok: size.default(8),
      norm_topk_prob: z.boolean().default(false),
    }),
  ).check(expertsPerToken('num_experts')),
  parts: usualDecoder((c) => ({
    attentionBias: c.attention_bias,
    queryNorms: 'all heads',
    mixture: {
      experts: c.num_experts,
      perToken: c.num_experts_per_tok,
      width: c.intermediate_size,
      normalize: c.norm_topk_prob,
      balancing: c,
      block: 'mlp',
      gate: 'gate_proj',
      up: 'up_proj',
      down: 'down_proj',
    },
  })),
  gguf: {
    ...gguf,
    experts: true,
    config: { architectures: ['OlmoeForCausalLM'], model_type: 'olmoe', hidden_act: 'silu' },
    numbers: { expert_count: 'num_experts', expert_used_count: 'num_experts_per_tok' },
    modules: {
      ...gguf.modules,
      ...expertsGguf('mlp', 'gate_proj', 'up_proj', 'down_proj'),
      'blk.attn_q_norm': 'self_attn.q_norm',
      'blk.attn_k_norm': 'self_attn.k_norm',
    },
  },
  shapes: shapesOf('olmoe', { 'olmoe-1b-7b': [2048, 1024, 16, 16, 16, 50304] }),
});
