import { z } from 'zod';
import { Attention } from '../nn/attention.js';
import { Block } from '../nn/block.js';
import type { Builder } from '../nn/builder.js';
import { Mlp } from '../nn/mlp.js';
import { RotaryEmbedding } from '../nn/rotary.js';
import { decoderSizes, ropeOfPart } from './config.js';
import { defineFamily, type Shape, shapesOf } from './family.js';

const schema = decoderSizes
  .omit({ rms_norm_eps: true, num_key_value_heads: true, head_dim: true })
  .extend({
    hidden_act: z.enum(['gelu', 'gelu_new', 'gelu_pytorch_tanh']).default('gelu'),
    attention_bias: z.boolean().default(true),
    layer_norm_eps: z.number().positive().default(1e-5),
    use_parallel_residual: z.boolean().default(true),
    rope_parameters: ropeOfPart(0.25),
  })
  .refine((c) => c.hidden_size % c.num_attention_heads === 0, 'hidden_size must be a multiple of num_attention_heads');

/** Attention and MLP beside each other, each with its norm, or one behind the other. Queries, keys and values are fused head by head. */
function layerOf(index: number, path: string, c: z.output<typeof schema>, rotary: RotaryEmbedding, build: Builder): Block {
  const { hidden_size: C, intermediate_size: F, num_attention_heads: groups, layer_norm_eps: eps, use_parallel_residual: parallel } = c;
  const linear = (name: string, inputs: number, outputs: number, bias = true) => build.linear(`${path}.${name}`, inputs, outputs, bias);
  const beforeAttention = build.layerNorm(`${path}.input_layernorm`, C, eps);
  const beforeMlp = build.layerNorm(`${path}.post_attention_layernorm`, C, eps);
  const attention = new Attention(index, C / groups, {
    in: { qkv: linear('attention.query_key_value', C, 3 * C, c.attention_bias), groups },
    o: linear('attention.dense', C, C, c.attention_bias),
    rotary,
  });
  const kind = c.hidden_act === 'gelu' ? 'gelu' : 'gelu_tanh';
  const mlp = new Mlp(kind, { up: linear('mlp.dense_h_to_4h', C, F), down: linear('mlp.dense_4h_to_h', F, C) });
  return new Block({ norms: { beforeAttention, beforeMlp }, attention, mlp, parallel });
}

const pythia = (C: number, L: number, H: number, V = 50304): Shape => [C, 4 * C, L, H, H, V, { max_position_embeddings: 2048 }];

/** GPTNeoXForCausalLM: GPT-NeoX and Pythia (https://huggingface.co/docs/transformers/model_doc/gpt_neox). */
export const gptNeox = defineFamily({
  modelType: 'gpt_neox',
  models: 'GPT-NeoX 20B, Pythia',
  architecture: 'GPTNeoXForCausalLM',
  paths: { embedding: 'gpt_neox.embed_in', layers: 'gpt_neox.layers', norm: 'gpt_neox.final_layer_norm', head: 'lm_head' },
  storedHead: 'embed_out',
  defaultTargets: ['query_key_value'],
  // Causal masks, which old files hold.
  unused: /\.attention\.(masked_)?bias$/,
  schema,
  parts(c, build, backend, paths) {
    const { hidden_size: C, max_position_embeddings: maxPositions } = c;
    const rotary = new RotaryEmbedding(backend, c.rope_parameters, C / c.num_attention_heads, maxPositions);
    const embedding = build.embedding(paths.embedding, c.vocab_size, C);
    return {
      embedding,
      layers: Array.from({ length: c.num_hidden_layers }, (_, index) => layerOf(index, `${paths.layers}.${index}`, c, rotary, build)),
      norm: build.layerNorm(paths.norm, C, c.layer_norm_eps),
      head: build.head(paths.head, embedding, c.tie_word_embeddings),
      rotaries: [rotary],
      maxPositions,
    };
  },
  gguf: {
    architecture: 'gptneox',
    config: { architectures: ['GPTNeoXForCausalLM'], model_type: 'gpt_neox', hidden_act: 'gelu' },
    layers: 'gpt_neox.layers',
    modules: {
      token_embd: 'gpt_neox.embed_in',
      output_norm: 'gpt_neox.final_layer_norm',
      output: 'lm_head',
      'blk.attn_norm': 'input_layernorm',
      'blk.attn_qkv': 'attention.query_key_value',
      'blk.attn_output': 'attention.dense',
      'blk.ffn_norm': 'post_attention_layernorm',
      'blk.ffn_up': 'mlp.dense_h_to_4h',
      'blk.ffn_down': 'mlp.dense_4h_to_h',
    },
    permuted: {},
    regrouped: { 'blk.attn_qkv': 'num_attention_heads' },
    flags: { use_parallel_residual: 'use_parallel_residual' },
    renamed: { rms_norm_eps: 'layer_norm_eps' },
  },
  shapes: shapesOf('gpt_neox', {
    'pythia-70m': pythia(512, 6, 8),
    'pythia-160m': pythia(768, 12, 12),
    'pythia-410m': pythia(1024, 24, 16),
    'pythia-1b': pythia(2048, 16, 8),
    'pythia-1.4b': pythia(2048, 24, 16),
    'pythia-2.8b': pythia(2560, 32, 32),
    'pythia-6.9b': pythia(4096, 32, 32, 50432),
    'pythia-12b': pythia(5120, 36, 40, 50688),
    'gpt-neox-20b': pythia(6144, 44, 64, 50432),
  }),
});
