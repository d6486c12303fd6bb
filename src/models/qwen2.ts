import { z } from 'zod';
import { decoderSizes, slidingWindow, windowOfType, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { likeQwenVl, textPartOf } from './text-part.js';
import { usualDecoder } from './usual.js';

const tied = { tie_word_embeddings: true };

/** The window of a Qwen's layer: only with `use_sliding_window`, and then from layer `max_window_layers` on. */
export const qwenWindow = {
  ...slidingWindow,
  use_sliding_window: z.boolean().default(false),
  max_window_layers: z.number().int().default(28),
};
export function windowOf(c: z.output<z.ZodObject<typeof qwenWindow>>, index: number): number {
  if (!c.use_sliding_window) return 0;
  return windowOfType(c, index) ?? (index >= c.max_window_layers ? (c.sliding_window ?? 0) : 0);
}

/** Qwen2ForCausalLM: Qwen 2 and 2.5, with biases of q, k and v (https://huggingface.co/docs/transformers/model_doc/qwen2). */
export const qwen2 = defineFamily({
  modelType: 'qwen2',
  models: 'Qwen 2, 2.5',
  architecture: 'Qwen2ForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(decoderSizes.extend({ ...qwenWindow, hidden_act: z.literal('silu').default('silu') })),
  parts: usualDecoder((c, index) => ({ attentionBias: 'qkv', window: windowOf(c, index) })),
  gguf: { ...usualGguf('qwen2'), config: { architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', hidden_act: 'silu' } },
  shapes: shapesOf('qwen2', {
    'qwen2.5-0.5b': [896, 4864, 24, 14, 2, 151936, tied],
    'qwen2.5-1.5b': [1536, 8960, 28, 12, 2, 151936, tied],
    'qwen2.5-3b': [2048, 11008, 36, 16, 2, 151936, tied],
    'qwen2.5-7b': [3584, 18944, 28, 28, 4, 152064],
    'qwen2.5-14b': [5120, 13824, 48, 40, 8, 152064],
    'qwen2.5-32b': [5120, 27648, 64, 40, 8, 152064],
    'qwen2.5-72b': [8192, 29568, 80, 64, 8, 152064],
  }),
});

/** Qwen2_5_VLForConditionalGeneration: the text part, whose positions are those of Qwen 2.5 as long as nothing is seen. */
export const qwen2Vl = textPartOf(
  { qwen2_5_vl_text: qwen2 },
  {
    ...likeQwenVl,
    modelType: 'qwen2_5_vl',
    models: 'Qwen 2.5 VL (its text part)',
    architecture: 'Qwen2_5_VLForConditionalGeneration',
    shapes: {},
  },
);
