import { biasedSizes, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

const tied = { tie_word_embeddings: true };

/** LlamaForCausalLM: Llama 2 and 3.x, TinyLlama, SmolLM2 (https://huggingface.co/docs/transformers/model_doc/llama). */
export const llama = defineFamily({
  modelType: 'llama',
  models: 'Llama 2, 3.x, TinyLlama, SmolLM2',
  architecture: 'LlamaForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: withHeads(biasedSizes),
  parts: usualDecoder((c) => ({ attentionBias: c.attention_bias, mlpBias: c.mlp_bias })),
  gguf: {
    ...usualGguf('llama'),
    config: { architectures: ['LlamaForCausalLM'], model_type: 'llama', hidden_act: 'silu' },
    permuted: { 'blk.attn_q': 'num_attention_heads', 'blk.attn_k': 'num_key_value_heads' },
  },
  // What their config.json on the hub says; of the first Llama the sizes of Touvron et al. 2023, table 2.
  shapes: shapesOf('llama', {
    'llama-1-7b': [4096, 11008, 32, 32, 32, 32000],
    'llama-1-13b': [5120, 13824, 40, 40, 40, 32000],
    'llama-1-33b': [6656, 17920, 60, 52, 52, 32000],
    'llama-1-65b': [8192, 22016, 80, 64, 64, 32000],
    'llama-2-7b': [4096, 11008, 32, 32, 32, 32000],
    'llama-2-13b': [5120, 13824, 40, 40, 40, 32000],
    'llama-2-70b': [8192, 28672, 80, 64, 8, 32000],
    'llama-3.1-8b': [4096, 14336, 32, 32, 8, 128256],
    'llama-3.1-70b': [8192, 28672, 80, 64, 8, 128256],
    'llama-3.2-1b': [2048, 8192, 16, 32, 8, 128256, tied],
    'llama-3.2-3b': [3072, 8192, 28, 24, 8, 128256, tied],
    'smollm2-135m': [576, 1536, 30, 9, 3, 49152, tied],
    'smollm2-360m': [960, 2560, 32, 15, 5, 49152, tied],
    'smollm2-1.7b': [2048, 8192, 24, 32, 32, 49152, tied],
    'tinyllama-1.1b': [2048, 5632, 22, 32, 4, 32000],
  }),
});
