import { expect, test } from 'vitest';
import type { LoraAdapter } from '../../src/adapters/lora.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import { tinyLlama } from '../helpers/tiny-llama.js';

const model = tinyLlama(new ReferenceBackend(), {
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 4,
  vocab_size: 32,
});

async function matrices(config: object): Promise<{ A: Float32Array[]; B: Float32Array[] }> {
  const adapter = (await createAdapter(
    model,
    parseAdapterConfig({ r: 16, target_modules: 'all-linear', ...config }, 'test'),
    5,
  )) as LoraAdapter;
  const read = (which: 'A' | 'B') => Promise.all([...adapter.layers.values()].map((layer) => layer[which].toFloat32()));
  const result = { A: await read('A'), B: await read('B') };
  adapter.dispose();
  return result;
}

const largest = (values: Float32Array) => values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
const deviation = (values: Float32Array) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);

/** PEFT's kaiming_uniform_(a=√5) is uniform in ±1/√in; of a thousand such numbers the largest comes within a percent of the bound. */
function expectUniform(values: Float32Array, limit: number): void {
  expect(largest(values)).toBeLessThanOrEqual(limit);
  expect(largest(values)).toBeGreaterThan(0.98 * limit);
  expect(Math.abs((deviation(values) * Math.sqrt(3)) / limit - 1)).toBeLessThan(0.06);
}

test('a new adapter begins as PEFT’s: A uniform in ±1/√in, B zero', async () => {
  const { A, B } = await matrices({});
  for (const values of A) expectUniform(values, 1 / Math.sqrt(values.length / 16));
  for (const values of B) expect(largest(values)).toBe(0);
  // Every layer draws numbers of its own.
  expect(new Set(A.map(([first]) => first)).size).toBe(A.length);
});

test.each([true, 'gaussian', false])('an embedding begins as PEFT’s, init_lora_weights %s: A zero, B normal', async (init_lora_weights) => {
  const { A, B } = await matrices({ target_modules: ['embed_tokens'], init_lora_weights });
  expect([A[0].length, B[0].length]).toEqual([16 * 32, 64 * 16]);
  expect(Math.abs(deviation(B[0]) - 1)).toBeLessThan(0.1);
  // Of false PEFT leaves both as they were drawn.
  if (init_lora_weights) expect(largest(A[0])).toBe(0);
  else expect(Math.abs(deviation(A[0]) - 1)).toBeLessThan(0.1);
});

test('gaussian: A with deviation 1/r', async () => {
  const { A, B } = await matrices({ init_lora_weights: 'gaussian' });
  for (const values of A) expect(Math.abs(deviation(values) * 16 - 1)).toBeLessThan(0.1);
  for (const values of B) expect(largest(values)).toBe(0);
});

test('false: both are uniform, B in ±1/√r', async () => {
  const { A, B } = await matrices({ init_lora_weights: false });
  for (const values of A) expectUniform(values, 1 / Math.sqrt(values.length / 16));
  for (const values of B) expectUniform(values, 1 / 4);
});
