import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { mergeAdapter } from '../../src/adapters/merge.js';
import { allocateAdapter, createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend } from '../../src/core/backend.js';
import { Gradients } from '../../src/core/tape.js';
import { zeros } from '../../src/core/tensor.js';
import { writeModel } from '../../src/io/model-folder.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { localFolder } from '../../src/io/node/folder.js';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { type LoadOptions, loadModel } from '../../src/models/load.js';
import type { QuantizationConfig } from '../../src/models/quantize.js';
import { quantizeModel } from '../../src/models/quantized-model.js';
import type { ForwardOptions } from '../../src/nn/context.js';
import { Linear } from '../../src/nn/layers.js';
import { openModel } from '../../src/runs/node.js';
import { accumulateGradients } from '../../src/train/step.js';
import { openBest, testNative } from '../helpers/native.js';
import { writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-quantized-'));
const formats: Record<string, QuantizationConfig> = {
  nf4: { kind: 'nf4', blockSize: 32, double: false },
  'nf4, double': { kind: 'nf4', blockSize: 64, double: true },
  'fp4, double': { kind: 'fp4', blockSize: 64, double: true },
  int8: { kind: 'int8', blockSize: 64, double: false },
};
const folderOf = (name: string) => join(root, name.replace(', ', '-'));
const lora = parseAdapterConfig({ r: 4, target_modules: 'all-linear', init_lora_weights: false }, 'test');
const length = 23;
const batch = {
  inputIds: Int32Array.from({ length }, (_, i) => (i * 37 + 5) % 200),
  labels: Int32Array.from({ length }, (_, i) => (i % 3 ? (i * 11) % 200 : -100)),
  positions: Int32Array.from({ length }, (_, i) => i),
  segments: Int32Array.of(0, length, 0, length),
};

let backend: Backend;
let base: ModelSource;
beforeAll(async () => {
  backend = await openBest();
  base = await openModel(await writeTinyModel(join(root, 'base'), {}, 'BF16'));
  for (const [name, config] of Object.entries(formats)) {
    const model = quantizeModel(base, backend, config);
    await localFolder(root).create(name.replace(', ', '-'), (inner) => writeModel(inner, model, base));
    model.dispose();
  }
});
afterAll(async () => {
  await base.checkpoint.close();
  await backend.close();
  rmSync(root, { recursive: true, force: true });
});

/** The loss and all gradients of one pass, as bytes. */
async function pass(device: Backend, source: ModelSource, load: Partial<LoadOptions>, options: ForwardOptions = {}) {
  const loaded = await loadModel(source, device, { precision: 'bf16', ...load });
  const adapter = await createAdapter(loaded.model, lora, 3);
  const gradients = new Gradients();
  const sum = zeros(device, [1], 'f32');
  accumulateGradients(loaded.model, batch, options, { scale: 1 / length, gradients, lossSum: sum });
  const result = new Map<string, Float32Array>([['loss', await sum.toFloat32()]]);
  for (const [name, parameter] of adapter.parameters()) result.set(name, await gradients.get(parameter)!.toFloat32());
  const streamed = loaded.model.stream?.bytesRead;
  gradients.clear();
  sum.dispose();
  adapter.dispose();
  loaded.dispose();
  return { result, streamed };
}

describe.each(Object.entries(formats))('%s', (name, quantization) => {
  test('what was written is used as what is quantised at once: the same bits', async () => {
    const source = await openModel(folderOf(name));
    const { result: made } = await pass(backend, base, { quantization });
    const { result: read } = await pass(backend, source, {});
    expect(read).toEqual(made);
    await source.checkpoint.close();
  });

  test('codes stay codes; embedding and norms do not', async () => {
    const loaded = await loadModel(base, backend, { precision: 'bf16', quantization });
    for (const [path, module] of loaded.model.modules) {
      const expected = module instanceof Linear && path !== 'lm_head' ? (quantization.kind === 'int8' ? 'i8' : 'u4') : undefined;
      if (expected) expect([path, module.weight.dtype]).toEqual([path, expected]);
      else expect(module.weight.quantization).toBeUndefined();
    }
    loaded.dispose();
  });

  testNative('streamed it gives the same bits, plain and checkpointed, kept in memory or on disk', async () => {
    const source = await openModel(folderOf(name));
    const { result: still } = await pass(backend, source, {}, { recompute: true });
    for (const options of [{ recompute: true }, { recompute: true, offloadFolder: root }, {}]) {
      const { result, streamed } = await pass(backend, source, { stream: true }, options);
      expect(result).toEqual(still);
      expect(streamed).toBeGreaterThan(0);
    }
    await source.checkpoint.close();
  });

  test('the processor follows the reference', async () => {
    const reference = new ReferenceBackend();
    const { result: want } = await pass(reference, base, { quantization, precision: 'fp32' });
    const { result: got } = await pass(backend, base, { quantization, precision: 'fp32' });
    for (const [key, values] of want) {
      const size = values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
      const worst = got.get(key)!.reduce((most, x, i) => Math.max(most, Math.abs(x - values[i])), 0);
      expect(worst).toBeLessThan(1e-4 * size);
    }
  });

  test('a merged model holds the numbers of the codes', async () => {
    const source = await openModel(folderOf(name));
    const loaded = await loadModel(source, backend, { precision: 'fp32' });
    const adapter = allocateAdapter(loaded.model, parseAdapterConfig({ target_modules: ['q_proj'] }, 'test'));
    for (const tensor of adapter.parameters().values()) tensor.write(new Uint8Array(tensor.bytes));
    const { tensors } = mergeAdapter(adapter, source.checkpoint);
    const weight = tensors.find((tensor) => tensor.name.endsWith('layers.1.self_attn.q_proj.weight'))!;
    const live = adapter.model.modules.get('model.layers.1.self_attn.q_proj')!.weight;
    const numbers = zeros(backend, live.shape, 'bf16');
    backend.run('dequantize', { weight: live, ...live.quantization! }, { out: numbers }, {});
    expect(weight.dtype).toBe('BF16');
    expect(Buffer.from(await weight.data()).equals(Buffer.from(await numbers.read()))).toBe(true);
    numbers.dispose();
    adapter.dispose();
    loaded.dispose();
    await source.checkpoint.close();
  });
});

test('modules_to_save of a quantised layer are trained from its numbers', async () => {
  const loaded = await loadModel(base, backend, { precision: 'bf16', quantization: formats['nf4, double'] });
  const path = 'model.layers.0.mlp.up_proj';
  const { weight } = loaded.model.modules.get(path)!;
  const numbers = zeros(backend, weight.shape, 'f32');
  backend.run('dequantize', { weight, ...weight.quantization! }, { out: numbers }, {});
  const adapter = allocateAdapter(loaded.model, parseAdapterConfig({ target_modules: ['q_proj'], modules_to_save: ['up_proj'] }, 'test'));
  const trained = adapter.parameters().get(`base_model.model.${path}.weight`)!;
  expect(await trained.toFloat32()).toEqual(await numbers.toFloat32());
  numbers.dispose();
  adapter.dispose();
  loaded.dispose();
});

test('a file takes 4.127 bits per parameter beside a few hundred bytes of tables for each matrix', async () => {
  const folder = await writeTinyModel(join(root, 'wide'), { hidden_size: 384, intermediate_size: 1024, num_hidden_layers: 1 }, 'BF16');
  const source = await openModel(folder);
  const model = quantizeModel(source, backend, formats['nf4, double']);
  await localFolder(root).create('wide-4', (inner) => writeModel(inner, model, source));
  const checkpoint = await readSafetensors(await openFile(join(root, 'wide-4', 'model.safetensors')));
  const parts = [...checkpoint.tensors.values()].filter(({ name }) => name.includes('up_proj') && !/quant_map|quant_state/.test(name));
  const bytes = parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
  expect((8 * bytes) / (384 * 1024)).toBeCloseTo(4.127, 3);
  expect(readFileSync(join(root, 'wide-4', 'config.json'), 'utf8')).toContain('"bnb_4bit_use_double_quant": true');
  model.dispose();
  await checkpoint.close();
  await source.checkpoint.close();
});

test('a quantised model is not quantised again, nor one of another method read', async () => {
  const source = await openModel(folderOf('nf4'));
  expect(() => quantizeModel(source, backend, formats.nf4)).toThrow(/quantised already/);
  const other = { ...base, config: { ...base.config, quantization_config: { quant_method: 'gptq' } } };
  await expect(loadModel(other, backend, { precision: 'bf16' })).rejects.toThrow(/"gptq" cannot be read/);
  await source.checkpoint.close();
});

testNative(
  'what is fetched of a file comes into memory, what is released goes',
  async () => {
    const path = join(root, 'weights.bin');
    const bytes = 8 << 20;
    writeFileSync(path, new Uint8Array(bytes).fill(1));
    const buffer = backend.mapFile!(path, 100, bytes - 100, 'weights');
    const range = { buffer, offset: 0, bytes: bytes - 100 };
    const resident = () => {
      const [, after] = readFileSync('/proc/self/smaps', 'utf8').split(path);
      return Number(/Rss:\s+(\d+) kB/.exec(after)?.[1]) * 1024;
    };
    expect(resident()).toBe(0);
    backend.fetch!(range);
    await vi.waitFor(() => expect(resident()).toBe(bytes), { timeout: 10_000 });
    backend.release!(range, Number.POSITIVE_INFINITY);
    await backend.sync();
    expect(resident()).toBe(bytes);
    backend.release!(range, 0);
    await backend.sync();
    expect(resident()).toBe(0);
    backend.free(buffer);
  },
  'linux',
);
