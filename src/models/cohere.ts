import { z } from 'zod';
import { biasedSizes, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

const { 'blk.ffn_norm': _, ...modules } = usualGguf('command-r').modules;

/**
 * CohereForCausalLM: Command-R and Aya, whose attention and MLP read the same input behind one norm, and whose neighbours turn together
 * (https://huggingface.co/docs/transformers/model_doc/cohere).
 */
export const cohere = defineFamily({
  modelType: 'cohere',
  models: 'Command-R, Aya 23',
  architecture: 'CohereForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    biasedSizes.extend({
      layer_norm_eps: z.number().positive().default(1e-5),
      logit_scale: z.number().positive().default(0.0625),
      tie_word_embeddings: z.boolean().default(true),
      use_qk_norm: z.literal(false).nullish(),
    }),
  ).transform((c) => ({ ...c, rms_norm_eps: c.layer_norm_eps })),
  parts: usualDecoder(
    (c) => ({
      attentionBias: c.attention_bias,
      interleaved: true,
      layerNorm: 'without bias',
      norms: { beforeAttention: 'input_layernorm' },
      parallel: true,
    }),
    (c) => ({ logitScale: c.logit_scale }),
  ),
  gguf: {
    ...usualGguf('command-r'),
    modules,
    config: { architectures: ['CohereForCausalLM'], model_type: 'cohere', hidden_act: 'silu' },
    numbers: { logit_scale: 'logit_scale' },
    renamed: { rms_norm_eps: 'layer_norm_eps' },
  },
  shapes: shapesOf('cohere', { 'command-r-35b': [8192, 22528, 40, 64, 64, 256000, { tie_word_embeddings: true }] }),
});
