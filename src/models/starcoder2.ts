import { z } from 'zod';
import { decoderSizes, slidingWindow, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

const gguf = usualGguf('starcoder2');
const more = { tie_word_embeddings: true, sliding_window: 4096 };

/** Starcoder2ForCausalLM, with layer norms and an MLP without a gate (https://huggingface.co/docs/transformers/model_doc/starcoder2). */
export const starcoder2 = defineFamily({
  modelType: 'starcoder2',
  models: 'StarCoder2',
  architecture: 'Starcoder2ForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    decoderSizes.extend({
      sliding_window: slidingWindow.sliding_window,
      hidden_act: z.literal('gelu_pytorch_tanh').default('gelu_pytorch_tanh'),
      norm_epsilon: z.number().positive().default(1e-5),
      use_bias: z.boolean().default(true),
      tie_word_embeddings: z.boolean().default(true),
    }),
  ).transform((c) => ({ ...c, rms_norm_eps: c.norm_epsilon })),
  parts: usualDecoder((c) => ({
    activation: 'gelu_tanh',
    attentionBias: c.use_bias,
    layerNorm: 'with bias',
    mlpBias: c.use_bias,
    ungated: ['c_fc', 'c_proj'],
    window: c.sliding_window ?? 0,
  })),
  gguf: {
    ...gguf,
    config: { architectures: ['Starcoder2ForCausalLM'], model_type: 'starcoder2', hidden_act: 'gelu_pytorch_tanh' },
    modules: { ...gguf.modules, 'blk.ffn_up': 'mlp.c_fc', 'blk.ffn_down': 'mlp.c_proj' },
    numbers: { 'attention.sliding_window': 'sliding_window' },
    renamed: { rms_norm_eps: 'norm_epsilon', mlp_bias: 'use_bias' },
  },
  shapes: shapesOf('starcoder2', {
    'starcoder2-3b': [3072, 12288, 30, 24, 2, 49152, more],
    'starcoder2-7b': [4608, 18432, 32, 36, 4, 49152, more],
    'starcoder2-15b': [6144, 24576, 40, 48, 4, 49152, { sliding_window: 4096, tie_word_embeddings: false }],
  }),
});
