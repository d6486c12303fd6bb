import { z } from 'zod';
import { decoderSizes, ropeOfPart, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';
import { usualDecoder } from './usual.js';

const gguf = usualGguf('phi2');

/** PhiForCausalLM: Phi-1 to 2, biases everywhere, the MLP beside the attention (https://huggingface.co/docs/transformers/model_doc/phi). */
export const phi = defineFamily({
  modelType: 'phi',
  models: 'Phi-1, 1.5, 2',
  architecture: 'PhiForCausalLM',
  paths: { ...usualPaths, norm: 'model.final_layernorm' },
  defaultTargets: ['q_proj', 'v_proj', 'fc1', 'fc2'],
  schema: withHeads(
    decoderSizes.extend({
      hidden_act: z.enum(['gelu_new', 'gelu_pytorch_tanh']).default('gelu_new'),
      layer_norm_eps: z.number().positive().default(1e-5),
      qk_layernorm: z.literal(false).nullish(),
      // A tied head would have no bias of its own.
      tie_word_embeddings: z.literal(false).default(false),
      rope_parameters: ropeOfPart(0.5),
    }),
  ).transform((c) => ({ ...c, rms_norm_eps: c.layer_norm_eps })),
  parts: usualDecoder(
    () => ({
      activation: 'gelu_tanh',
      attentionBias: true,
      attentionOutput: 'dense',
      layerNorm: 'with bias',
      mlpBias: true,
      norms: { beforeAttention: 'input_layernorm' },
      parallel: true,
      ungated: ['fc1', 'fc2'],
    }),
    () => ({ headBias: true }),
  ),
  gguf: {
    ...gguf,
    config: { architectures: ['PhiForCausalLM'], model_type: 'phi', hidden_act: 'gelu_new' },
    modules: {
      ...gguf.modules,
      output_norm: 'model.final_layernorm',
      'blk.attn_output': 'self_attn.dense',
      'blk.ffn_up': 'mlp.fc1',
      'blk.ffn_down': 'mlp.fc2',
    },
    renamed: { rms_norm_eps: 'layer_norm_eps' },
  },
  shapes: shapesOf('phi', { 'phi-2': [2560, 10240, 32, 32, 32, 51200, { partial_rotary_factor: 0.4 }] }),
});
