import { z } from 'zod';
import { type DecoderConfig, decoderSizes, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { type DecoderScales, usualDecoder } from './usual.js';

/** Gemma's sizes: the embedding is the head where config.json does not say. */
export const gemmaSizes = decoderSizes.extend({
  tie_word_embeddings: z.boolean().default(true),
  head_dim: decoderSizes.shape.head_dim.default(256),
});

/** Embeddings are scaled by √C. */
export const gemmaScales = (c: DecoderConfig): DecoderScales => ({ embeddingScale: Math.sqrt(c.hidden_size) });

/** llama.cpp's files hold the weights of Gemma's norms with the 1 that is added to them. */
export const gemmaGguf = (architecture: string) => ({ ...usualGguf(architecture), normOffset: 1 });

/** GemmaForCausalLM (https://huggingface.co/docs/transformers/model_doc/gemma). */
export const gemma = defineFamily({
  modelType: 'gemma',
  models: 'Gemma',
  architecture: 'GemmaForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  // Whatever `hidden_act` says, all Gemmas are trained with the tanh approximation.
  schema: withHeads(gemmaSizes.extend({ attention_bias: z.boolean().default(false) })),
  parts: usualDecoder((c) => ({ attentionBias: c.attention_bias, normOffset: 1, activation: 'gelu_tanh' }), gemmaScales),
  gguf: {
    ...gemmaGguf('gemma'),
    config: { architectures: ['GemmaForCausalLM'], model_type: 'gemma', hidden_activation: 'gelu_pytorch_tanh' },
  },
  shapes: shapesOf('gemma', {
    'gemma-2b': [2048, 16384, 18, 8, 1, 256000, { head_dim: 256 }],
    'gemma-7b': [3072, 24576, 28, 16, 16, 256000, { head_dim: 256 }],
  }),
});
