import type { Backend } from '../../src/core/backend.js';
import { fromArray, type Tensor } from '../../src/core/tensor.js';
import { llama } from '../../src/models/llama.js';
import { Builder } from '../../src/nn/builder.js';
import type { CausalLM } from '../../src/nn/model.js';
import { Random } from '../../src/util/philox.js';

/** The tensors of a Llama of that config.json with random weights, by name and shape. */
export function llamaShapes(config: Record<string, unknown>): Map<string, number[]> {
  const get = (key: string) => config[key] as number;
  const [C, F, V] = [get('hidden_size'), get('intermediate_size'), get('vocab_size')];
  const headDim = (config.head_dim as number | undefined) ?? C / get('num_attention_heads');
  const [Q, K] = [get('num_attention_heads') * headDim, get('num_key_value_heads') * headDim];
  const shapes = new Map<string, number[]>([
    ['model.embed_tokens.weight', [V, C]],
    ['model.norm.weight', [C]],
  ]);
  if (!config.tie_word_embeddings) shapes.set('lm_head.weight', [V, C]);
  const linear = (path: string, inputs: number, outputs: number, bias: unknown) => {
    shapes.set(`${path}.weight`, [outputs, inputs]);
    if (bias) shapes.set(`${path}.bias`, [outputs]);
  };
  for (let i = 0; i < get('num_hidden_layers'); i++) {
    const path = `model.layers.${i}`;
    shapes.set(`${path}.input_layernorm.weight`, [C]);
    shapes.set(`${path}.post_attention_layernorm.weight`, [C]);
    linear(`${path}.self_attn.q_proj`, C, Q, config.attention_bias);
    linear(`${path}.self_attn.k_proj`, C, K, config.attention_bias);
    linear(`${path}.self_attn.v_proj`, C, K, config.attention_bias);
    linear(`${path}.self_attn.o_proj`, Q, C, config.attention_bias);
    linear(`${path}.mlp.gate_proj`, C, F, config.mlp_bias);
    linear(`${path}.mlp.up_proj`, C, F, config.mlp_bias);
    linear(`${path}.mlp.down_proj`, F, C, config.mlp_bias);
  }
  return shapes;
}

/** A Llama with random weights of deviation 0.05 around 0, norms around 1. */
export function tinyLlama(backend: Backend, config: Record<string, unknown>, dtype: 'f32' | 'bf16' = 'f32', seed = 7): CausalLM {
  const random = new Random(seed, 0);
  const tensors = new Map<string, Tensor>();
  for (const [name, shape] of llamaShapes(config)) {
    const size = shape.reduce((a, b) => a * b, 1);
    const mean = name.includes('norm') ? 1 : 0;
    const values = Float32Array.from({ length: size }, () => mean + 0.05 * random.normal());
    tensors.set(name, fromArray(backend, values, shape, shape.length > 1 ? dtype : 'f32', 'weights'));
  }
  return llama.build(config, new Builder({ name: 'tiny', tensors }), backend, dtype);
}
