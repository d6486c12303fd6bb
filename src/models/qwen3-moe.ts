import { z } from 'zod';
import { balancing, decoderSizes, expertsPerToken, size, withHeads } from './config.js';
import { defineFamily, expertsGguf, shapesOf, usualGguf, usualPaths } from './family.js';
import { qwenWindow, windowOf } from './qwen2.js';
import { usualDecoder } from './usual.js';

const gguf = usualGguf('qwen3moe');
const experts = size.max(4096);

/** Qwen3MoeForCausalLM: Qwen 3 with mixtures of experts (https://huggingface.co/docs/transformers/model_doc/qwen3_moe). */
export const qwen3Moe = defineFamily({
  modelType: 'qwen3_moe',
  models: 'Qwen 3 with experts (30B-A3B, 235B-A22B, Coder)',
  architecture: 'Qwen3MoeForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    decoderSizes.extend({
      ...balancing,
      ...qwenWindow,
      hidden_act: z.literal('silu').default('silu'),
      attention_bias: z.boolean().default(false),
      num_experts: experts.nullish(),
      /** What transformers calls it when it saves a model. */
      num_local_experts: experts.nullish(),
      num_experts_per_tok: size.default(8),
      moe_intermediate_size: size.default(768),
      norm_topk_prob: z.boolean().default(false),
      /** Which layers have a mixture: every so many, but for those that are named. */
      decoder_sparse_step: size.default(1),
      mlp_only_layers: z.array(z.number()).nullish(),
    }),
  )
    .transform((c) => ({ ...c, num_experts: c.num_experts ?? c.num_local_experts ?? 128 }))
    .check(expertsPerToken('num_experts')),
  parts: usualDecoder((c, index) => ({
    attentionBias: c.attention_bias,
    queryNorms: 'each head',
    window: windowOf(c, index),
    mixture:
      c.mlp_only_layers?.includes(index) || (index + 1) % c.decoder_sparse_step !== 0
        ? undefined
        : {
            experts: c.num_experts,
            perToken: c.num_experts_per_tok,
            width: c.moe_intermediate_size,
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
    // llama.cpp divides by the sum, whatever was trained.
    config: { architectures: ['Qwen3MoeForCausalLM'], model_type: 'qwen3_moe', hidden_act: 'silu', norm_topk_prob: true },
    numbers: {
      expert_count: 'num_experts',
      expert_used_count: 'num_experts_per_tok',
      expert_feed_forward_length: 'moe_intermediate_size',
    },
    modules: {
      ...gguf.modules,
      ...expertsGguf('mlp', 'gate_proj', 'up_proj', 'down_proj'),
      'blk.attn_q_norm': 'self_attn.q_norm',
      'blk.attn_k_norm': 'self_attn.k_norm',
    },
  },
  shapes: shapesOf('qwen3_moe', {
    'qwen3-30b-a3b': [2048, 6144, 48, 32, 4, 151936, { head_dim: 128, norm_topk_prob: true }],
    'qwen3-235b-a22b': [4096, 12288, 94, 64, 4, 151936, { head_dim: 128, norm_topk_prob: true, moe_intermediate_size: 1536 }],
  }),
});
