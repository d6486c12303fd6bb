import { z } from 'zod';
import { decoderSizes, slidingWindow, windowOfType, withHeads } from './config.js';
import { defineFamily, shapesOf, usualPaths } from './family.js';
import { likeLlava, textPartOf } from './text-part.js';
import { usualDecoder } from './usual.js';

const act = z.literal('silu').default('silu');

/**
 * MistralForCausalLM: Mistral 7B, Nemo, Small, whose queries may see a window of keys
 * (https://huggingface.co/docs/transformers/model_doc/mistral). llama.cpp writes them as `llama`.
 */
export const mistral = defineFamily({
  modelType: 'mistral',
  models: 'Mistral 7B, Nemo, Small',
  architecture: 'MistralForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(decoderSizes.extend({ ...slidingWindow, hidden_act: act })),
  parts: usualDecoder((c) => ({ window: c.sliding_window ?? 0 })),
  shapes: shapesOf('mistral', {
    'mistral-7b': [4096, 14336, 32, 32, 8, 32000],
    'mistral-7b-v0.3': [4096, 14336, 32, 32, 8, 32768],
  }),
});

/** MinistralForCausalLM: Ministral 8B, as Mistral with a window in some layers (`layer_types`). */
export const ministral = defineFamily({
  modelType: 'ministral',
  models: 'Ministral 8B',
  architecture: 'MinistralForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(decoderSizes.extend({ ...slidingWindow, hidden_act: act })),
  parts: usualDecoder((c, index) => ({ window: windowOfType(c, index) ?? c.sliding_window ?? 0 })),
  shapes: {},
});

/** Mistral3ForConditionalGeneration: the text part of Mistral Small 3.1 and 3.2, which see images. */
export const mistral3 = textPartOf(
  { mistral },
  {
    ...likeLlava,
    modelType: 'mistral3',
    models: 'Mistral Small 3.1, 3.2 (their text part)',
    architecture: 'Mistral3ForConditionalGeneration',
    shapes: {
      'mistral-small-3.1-24b': {
        model_type: 'mistral3',
        text_config: { ...shapesOf('mistral', { text: [5120, 32768, 40, 32, 8, 131072, { head_dim: 128 }] }).text },
      },
    },
  },
);
