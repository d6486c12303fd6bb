import { expect, test } from 'vitest';
import type { LoraAdapter } from '../../src/adapters/lora.js';
import { allocateAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import golden from '../golden/lora_targets.json' with { type: 'json' };
import { tinyLlama } from '../helpers/tiny-llama.js';

const shape = {
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 64,
};

test.each(golden)(
  '$name: the modules, ranks, scales and trainable tensors are PEFT’s',
  ({ config, layers, parameters, trainable, all }) => {
    const model = tinyLlama(new ReferenceBackend(), { ...shape, attention_bias: true, mlp_bias: true, tie_word_embeddings: false });
    const adapter = allocateAdapter(model, parseAdapterConfig({ r: 8, lora_alpha: 16, ...config }, 'adapter_config.json'));
    const { layers: adapted } = adapter as LoraAdapter;
    expect(Object.fromEntries([...adapted].map(([path, { r, scale }]) => [path, [r, scale]]))).toEqual(layers);
    expect(Object.fromEntries([...adapter.parameters()].map(([name, tensor]) => [name, tensor.shape]))).toEqual(parameters);
    expect(adapter.count()).toEqual({ trainable, all, percent: (100 * trainable) / all });
  },
);

test('a name that fits no module is refused with the nearest one', () => {
  const model = tinyLlama(new ReferenceBackend(), shape);
  const config = parseAdapterConfig({ target_modules: ['q_prj'] }, 'adapter_config.json');
  expect(() => allocateAdapter(model, config)).toThrow(/write "q_proj"/);
});
