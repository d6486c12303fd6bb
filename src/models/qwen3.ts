import { z } from 'zod';
import { decoderSizes, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { qwenWindow, windowOf } from './qwen2.js';
import { likeQwenVl, textPartOf } from './text-part.js';
import { usualDecoder } from './usual.js';

const [head_dim, tied] = [{ head_dim: 128 }, { head_dim: 128, tie_word_embeddings: true }];
const gguf = usualGguf('qwen3');

/** Qwen3ForCausalLM, with norms over each head of queries and keys (https://huggingface.co/docs/transformers/model_doc/qwen3). */
export const qwen3 = defineFamily({
  modelType: 'qwen3',
  models: 'Qwen 3',
  architecture: 'Qwen3ForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(
    decoderSizes.extend({ ...qwenWindow, hidden_act: z.literal('silu').default('silu'), attention_bias: z.boolean().default(false) }),
  ),
  parts: usualDecoder((c, index) => ({ attentionBias: c.attention_bias, queryNorms: 'each head', window: windowOf(c, index) })),
  gguf: {
    ...gguf,
    config: { architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3', hidden_act: 'silu' },
    modules: { ...gguf.modules, 'blk.attn_q_norm': 'self_attn.q_norm', 'blk.attn_k_norm': 'self_attn.k_norm' },
  },
  shapes: shapesOf('qwen3', {
    'qwen3-0.6b': [1024, 3072, 28, 16, 8, 151936, tied],
    'qwen3-1.7b': [2048, 6144, 28, 16, 8, 151936, tied],
    'qwen3-4b': [2560, 9728, 36, 32, 8, 151936, tied],
    'qwen3-8b': [4096, 12288, 36, 32, 8, 151936, head_dim],
    'qwen3-14b': [5120, 17408, 40, 40, 8, 151936, head_dim],
    'qwen3-32b': [5120, 25600, 64, 64, 8, 151936, head_dim],
  }),
});

/** Qwen3VLForConditionalGeneration: the text part, whose positions are those of Qwen 3 as long as nothing is seen. */
export const qwen3Vl = textPartOf(
  { qwen3_vl_text: qwen3 },
  {
    ...likeQwenVl,
    modelType: 'qwen3_vl',
    models: 'Qwen 3 VL (its text part)',
    architecture: 'Qwen3VLForConditionalGeneration',
    shapes: {},
  },
);
