import { z } from 'zod';
import { type DecoderConfig, slidingWindow, windowOfType, withHeads } from './config.js';
import { defineFamily, shapesOf, usualPaths } from './family.js';
import { gemmaGguf, gemmaScales, gemmaSizes } from './gemma.js';
import { type DecoderScales, type LayerNorms, usualDecoder } from './usual.js';

/** Of Gemma 2 and its successors: how layers see their keys, the factor of the scores, and soft caps. */
export const cappedSizes = gemmaSizes.extend({
  ...slidingWindow,
  hidden_activation: z.literal('gelu_pytorch_tanh').default('gelu_pytorch_tanh'),
  attention_bias: z.boolean().default(false),
  query_pre_attn_scalar: z.number().positive().nullish(),
  attn_logit_softcapping: z.number().positive().nullish(),
  final_logit_softcapping: z.number().positive().nullish(),
  use_bidirectional_attention: z.literal(false).nullish(),
});

/** The embeddings' factor, and the logits' cap. */
export const cappedScales = (c: DecoderConfig & { final_logit_softcapping?: number | null }): DecoderScales => ({
  ...gemmaScales(c),
  logitSoftcap: c.final_logit_softcapping ?? 0,
});

/** Norms before and behind attention and MLP. */
export const gemmaNorms: LayerNorms = {
  beforeAttention: 'input_layernorm',
  afterAttention: 'post_attention_layernorm',
  beforeMlp: 'pre_feedforward_layernorm',
  afterMlp: 'post_feedforward_layernorm',
};

/** llama.cpp's names of the same. */
export function gemmaNormsGguf(architecture: string) {
  const gguf = gemmaGguf(architecture);
  const norms = {
    'blk.post_attention_norm': 'post_attention_layernorm',
    'blk.ffn_norm': 'pre_feedforward_layernorm',
    'blk.post_ffw_norm': 'post_feedforward_layernorm',
  };
  return { ...gguf, modules: { ...gguf.modules, ...norms } };
}

/** Gemma2ForCausalLM: every other layer sees a window (https://huggingface.co/docs/transformers/model_doc/gemma2). */
export const gemma2 = defineFamily({
  modelType: 'gemma2',
  models: 'Gemma 2',
  architecture: 'Gemma2ForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    cappedSizes.extend({
      sliding_window: slidingWindow.sliding_window.default(4096),
      attn_logit_softcapping: cappedSizes.shape.attn_logit_softcapping.default(50),
      final_logit_softcapping: cappedSizes.shape.final_logit_softcapping.default(30),
    }),
  ),
  parts: usualDecoder(
    (c, index) => ({
      window: windowOfType(c, index) ?? (index % 2 === 0 ? (c.sliding_window ?? 0) : 0),
      norms: gemmaNorms,
      normOffset: 1,
      attentionBias: c.attention_bias,
      activation: 'gelu_tanh',
      // llama.cpp's files leave it out: it knows the largest model, whose scalar is another, by its layers.
      attentionScale: (c.query_pre_attn_scalar ?? (c.num_hidden_layers === 46 ? c.hidden_size / c.num_attention_heads : 256)) ** -0.5,
      attentionSoftcap: c.attn_logit_softcapping ?? 0,
    }),
    cappedScales,
  ),
  gguf: {
    ...gemmaNormsGguf('gemma2'),
    config: { architectures: ['Gemma2ForCausalLM'], model_type: 'gemma2', hidden_activation: 'gelu_pytorch_tanh' },
    numbers: {
      'attention.sliding_window': 'sliding_window',
      attn_logit_softcapping: 'attn_logit_softcapping',
      final_logit_softcapping: 'final_logit_softcapping',
    },
  },
  shapes: shapesOf('gemma2', {
    'gemma-2-2b': [2304, 9216, 26, 8, 4, 256000, { head_dim: 256 }],
    'gemma-2-9b': [3584, 14336, 42, 16, 8, 256000, { head_dim: 256 }],
    'gemma-2-27b': [4608, 36864, 46, 32, 16, 256000, { head_dim: 128 }],
  }),
});
