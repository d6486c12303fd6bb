import { z } from 'zod';
import { Attention } from '../nn/attention.js';
import { Block } from '../nn/block.js';
import type { Builder } from '../nn/builder.js';
import { Mlp } from '../nn/mlp.js';
import { size } from './config.js';
import { defineFamily } from './family.js';

const schema = z
  .object({
    vocab_size: size,
    n_embd: size,
    n_layer: size.max(4096),
    n_head: size,
    n_inner: size.nullish(),
    n_positions: size.default(1024),
    layer_norm_epsilon: z.number().positive().default(1e-5),
    activation_function: z.enum(['gelu_new', 'gelu_pytorch_tanh', 'gelu']).default('gelu_new'),
    scale_attn_weights: z.boolean().default(true),
    scale_attn_by_inverse_layer_idx: z.boolean().default(false),
    add_cross_attention: z.literal(false).default(false),
    tie_word_embeddings: z.boolean().default(true),
  })
  .refine((c) => c.n_embd % c.n_head === 0, 'n_embd must be a multiple of n_head');

const fanInFanOut = /\.(c_attn|c_proj|c_fc)\.weight$/;

/** ln_1, attn, ln_2, mlp: both with biases everywhere. */
function layerOf(index: number, path: string, c: z.output<typeof schema>, build: Builder): Block {
  const { n_embd: C, layer_norm_epsilon: eps } = c;
  const F = c.n_inner ?? 4 * C;
  const D = C / c.n_head;
  const scale = (c.scale_attn_weights ? 1 / Math.sqrt(D) : 1) / (c.scale_attn_by_inverse_layer_idx ? index + 1 : 1);
  const linear = (name: string, inputs: number, outputs: number) => build.linear(`${path}.${name}`, inputs, outputs, true);
  const beforeAttention = build.layerNorm(`${path}.ln_1`, C, eps);
  const attention = new Attention(index, D, { in: { qkv: linear('attn.c_attn', C, 3 * C) }, o: linear('attn.c_proj', C, C), scale });
  const beforeMlp = build.layerNorm(`${path}.ln_2`, C, eps);
  const kind = c.activation_function === 'gelu' ? 'gelu' : 'gelu_tanh';
  const mlp = new Mlp(kind, { up: linear('mlp.c_fc', C, F), down: linear('mlp.c_proj', F, C) });
  return new Block({ norms: { beforeAttention, beforeMlp }, attention, mlp });
}

/**
 * GPT2LMHeadModel: GPT-2, with learned positions and matrices that its files hold as [in,out] (Conv1D)
 * (https://huggingface.co/docs/transformers/model_doc/gpt2).
 */
export const gpt2 = defineFamily({
  modelType: 'gpt2',
  models: 'GPT-2',
  architecture: 'GPT2LMHeadModel',
  paths: { embedding: 'transformer.wte', layers: 'transformer.h', norm: 'transformer.ln_f', head: 'lm_head' },
  defaultTargets: ['c_attn'],
  fanInFanOut,
  // Causal masks, which old files hold.
  unused: /\.attn\.(masked_)?bias$/,
  schema,
  parts(c, build, _, paths) {
    const embedding = build.embedding(paths.embedding, c.vocab_size, c.n_embd);
    return {
      embedding,
      positions: build.embedding('transformer.wpe', c.n_positions, c.n_embd),
      layers: Array.from({ length: c.n_layer }, (_layer, index) => layerOf(index, `${paths.layers}.${index}`, c, build)),
      norm: build.layerNorm(paths.norm, c.n_embd, c.layer_norm_epsilon),
      head: build.head(paths.head, embedding, c.tie_word_embeddings),
      rotaries: [],
      maxPositions: c.n_positions,
    };
  },
  gguf: {
    architecture: 'gpt2',
    config: { architectures: ['GPT2LMHeadModel'], model_type: 'gpt2', activation_function: 'gelu_new' },
    layers: 'transformer.h',
    modules: {
      token_embd: 'transformer.wte',
      position_embd: 'transformer.wpe',
      output_norm: 'transformer.ln_f',
      output: 'lm_head',
      'blk.attn_norm': 'ln_1',
      'blk.attn_qkv': 'attn.c_attn',
      'blk.attn_output': 'attn.c_proj',
      'blk.ffn_norm': 'ln_2',
      'blk.ffn_up': 'mlp.c_fc',
      'blk.ffn_down': 'mlp.c_proj',
    },
    permuted: {},
    fanInFanOut,
    renamed: {
      hidden_size: 'n_embd',
      num_hidden_layers: 'n_layer',
      num_attention_heads: 'n_head',
      intermediate_size: 'n_inner',
      max_position_embeddings: 'n_positions',
      rms_norm_eps: 'layer_norm_epsilon',
    },
  },
  shapes: Object.fromEntries(
    Object.entries({ gpt2: [768, 12, 12], 'gpt2-medium': [1024, 24, 16], 'gpt2-large': [1280, 36, 20], 'gpt2-xl': [1600, 48, 25] }).map(
      ([name, [n_embd, n_layer, n_head]]) => [name, { model_type: 'gpt2', vocab_size: 50257, n_positions: 1024, n_embd, n_layer, n_head }],
    ),
  ),
});
