import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { saveAdapter } from '../../src/adapters/folder.js';
import { mergeAdapter } from '../../src/adapters/merge.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import type { ModelToWrite } from '../../src/io/model-folder.js';
import { localFolder } from '../../src/io/node/folder.js';
import { writeCheckpoint } from '../../src/io/safetensors-shards.js';
import { allFamilies } from '../../src/models/families.js';
import { standardQuantization } from '../../src/models/quantize.js';
import { quantizeModel } from '../../src/models/quantized-model.js';
import { createOptimizer } from '../../src/optim/optimizer.js';
import { trainStep } from '../../src/train/step.js';
import { askPeers, distance, json, logitsOf, openBase, temporaryFolder, tensorsOf } from './peers.js';

const goldens = readdirSync('test/golden/models');
const configOf = (name: string): Record<string, unknown> => json(resolve('test/golden/models', name, 'config.json'));
/**
 * Every golden is a base as transformers wrote it. PEFT converts adapters of single experts to those of its fused ones, and not all of them
 * beside other linear layers: experts.test.ts has those that it takes.
 */
const names = goldens.filter((name) => !Object.keys(configOf(name)).some((key) => /^num_(local_)?experts$/.test(key)));
const examples = [[5, 1, 80, 2, 9, 3, 44]];
const folder = temporaryFolder();
afterAll(() => folder.remove());
const at = (...parts: string[]) => join(folder.path, ...parts);

interface Trained {
  losses: number[];
  /** Logits without the adapter and with it. */
  before: Float32Array;
  after: Float32Array;
}
const trained = new Map<string, Trained>();

async function writeFiles(path: string, { tensors, config }: Pick<ModelToWrite, 'tensors' | 'config'>): Promise<void> {
  await writeCheckpoint(localFolder(path), tensors);
  await localFolder(path).writeText('config.json', JSON.stringify(config));
}

const [ids] = examples;
const batch = {
  inputIds: Int32Array.from(ids),
  labels: Int32Array.of(...ids.slice(1), -100),
  positions: Int32Array.from(ids.keys()),
  segments: Int32Array.of(0, ids.length, 0, ids.length),
};
const adam = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0 };
const step = { learning_rate: 0.02, max_grad_norm: 1, seed: 1, gradient_checkpointing: false };

/** An adapter that is trained here on a base, and both merged, written for the peers. */
async function write(name: string): Promise<void> {
  const base = resolve('test/golden/models', name);
  const { model, source, close } = await openBase(base);
  const before = await logitsOf(model, ids);
  const adapter = await createAdapter(model, parseAdapterConfig({ r: 3, lora_alpha: 12, target_modules: 'all-linear' }, 'test'), 4);
  const optimizer = createOptimizer('adamw_torch', adapter.parameters(), adam);
  const losses: number[] = [];
  for (let i = 0; i < 5; i++) losses.push((await trainStep(adapter, optimizer, [batch], step)).loss);
  trained.set(name, { losses, before, after: await logitsOf(model, ids) });
  await saveAdapter(localFolder(at(name, 'adapter')), adapter, base);
  const merged = mergeAdapter(adapter, source.checkpoint);
  expect(merged.config).toEqual(source.config);
  await writeCheckpoint(localFolder(at(name, 'merged')), merged.tensors);
  // As it was written: transformers takes 0.0 for some settings and not 0.
  await localFolder(at(name, 'merged')).writeText('config.json', readFileSync(resolve(base, 'config.json'), 'utf8'));
  await close();
}

beforeAll(async () => {
  for (const name of names) await write(name);
  const jobs = names.flatMap((name) => [
    { do: 'read_adapter', base: resolve('test/golden/models', name), folder: at(name, 'adapter'), examples, out: at(`${name}.adapter`) },
    { do: 'read_model', folder: at(name, 'merged'), examples, out: at(`${name}.merged`) },
  ]);
  await askPeers(folder.path, jobs);
});

const theirs = async (file: string) => (await tensorsOf(at(file))).get('logits.0')!;

test('every family has a golden', () => {
  const types = new Set(goldens.map((name) => configOf(name).model_type));
  expect(allFamilies().flatMap(({ modelType }) => (types.has(modelType) ? [] : [modelType]))).toEqual([]);
});

test.each(names)('%s: PEFT takes what was trained here strictly and answers as we do', async (name) => {
  const { losses, before, after } = trained.get(name)!;
  expect(losses[4]).toBeLessThan(losses[0]);
  expect(distance(before, after)).toBeGreaterThan(1e-2);
  expect(distance(await theirs(`${name}.adapter`), after)).toBeLessThan(1e-4);
});

test.each(names)('%s: transformers takes the merged model strictly and answers as the adapter', async (name) => {
  expect(distance(await theirs(`${name}.merged`), trained.get(name)!.after)).toBeLessThan(1e-4);
});

/** Widths that are multiples of bitsandbytes' blocks: with rows of 48, which blocks cross, its products on a processor differ. */
const wide = {
  mm_tokens_per_image: 4,
  vision_config: { hidden_size: 64, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, image_size: 28, patch_size: 14 },
  text_config: {
    hidden_size: 128,
    intermediate_size: 192,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 32,
    vocab_size: 96,
  },
};

test('of a multimodal model the text part is quantised: transformers takes it strictly, and bitsandbytes answers as we do', async () => {
  const job = { do: 'write_base', folder: at('wide'), config: wide, architecture: 'Gemma3ForConditionalGeneration' };
  await askPeers(folder.path, [job]);
  const { source, backend, close } = await openBase(at('wide'));
  const quantized = quantizeModel(source, backend, standardQuantization);
  const config = { ...quantized.config, quantization_config: quantized.quantizationConfig };
  await writeFiles(at('codes'), { tensors: quantized.tensors, config });
  quantized.dispose();
  await close();
  await askPeers(folder.path, [{ do: 'read_quantized', folder: at('codes'), examples, out: at('codes.logits') }]);
  const codes = await openBase(at('codes'));
  expect(codes.model.modules.get('model.language_model.layers.1.mlp.up_proj')?.weight.dtype).toBe('u4');
  expect(distance(await logitsOf(codes.model, examples[0]), await theirs('codes.logits'))).toBeLessThan(1e-4);
  await codes.close();
});
