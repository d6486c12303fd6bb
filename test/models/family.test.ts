import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { FullTuner } from '../../src/adapters/full.js';
import { mergeAdapter } from '../../src/adapters/merge.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import { scope } from '../../src/core/scope.js';
import { writeModel } from '../../src/io/model-folder.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { localFolder } from '../../src/io/node/folder.js';
import { registerFamily } from '../../src/models/families.js';
import { loadModel } from '../../src/models/load.js';
import type { CausalLM } from '../../src/nn/model.js';
import { createOptimizer } from '../../src/optim/optimizer.js';
import { fullBatch } from '../../src/plan/dry-run.js';
import { planModelOn } from '../../src/plan/plan.js';
import { knownShape } from '../../src/plan/shapes.js';
import { openModel } from '../../src/runs/node.js';
import { trainStep } from '../../src/train/step.js';
import { nightjar, rename } from '../helpers/nightjar.js';
import { writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-family-'));
const backend = new ReferenceBackend();
const at = (...names: string[]) => join(root, ...names);
const opened: ModelSource[] = [];
async function open(name: string): Promise<ModelSource> {
  const source = await openModel(at(name));
  opened.push(source);
  return source;
}
beforeAll(async () => {
  registerFamily(nightjar);
  await writeTinyModel(at('llama'));
  // Without `architectures`, which is filled in from the family.
  await writeTinyModel(at('nightjar'), { model_type: 'nightjar', architectures: undefined }, 'F32', rename);
});
afterAll(async () => {
  for (const { checkpoint } of opened) await checkpoint.close();
  rmSync(root, { recursive: true, force: true });
});

const ids = Int32Array.of(5, 1, 8, 2, 9, 3);
const batch = {
  inputIds: ids,
  labels: Int32Array.of(1, 8, 2, 9, 3, -100),
  positions: Int32Array.from(ids.keys()),
  segments: Int32Array.of(0, 6, 0, 6),
};
const logitsOf = (model: CausalLM) => scope(() => model.logits(model.hidden(batch))).toFloat32();
const adam = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0 };
const step = { learning_rate: 0.01, max_grad_norm: 1, seed: 1 };

test('a family of its own file loads and answers as Llama does with the same weights', async () => {
  const load = async (name: string) => (await loadModel(await open(name), backend, { precision: 'fp32' })).model;
  const [theirs, ours] = [await load('llama'), await load('nightjar')];
  expect(await logitsOf(ours)).toEqual(await logitsOf(theirs));
  expect([...ours.modules.keys()]).toContain('nest.floors.1.rise');
});

test.each([false, true])('it trains, with gradient_checkpointing %s, merges, and is read back', async (gradient_checkpointing) => {
  const source = await open('nightjar');
  const { model } = await loadModel(source, backend, { precision: 'fp32' });
  const adapter = await createAdapter(model, parseAdapterConfig({ r: 2, modules_to_save: ['song'] }, 'test'), 1);
  expect([...adapter.layers.keys()]).toEqual([0, 1].flatMap((i) => [`nest.floors.${i}.ask`, `nest.floors.${i}.answer`]));
  const optimizer = createOptimizer('adamw_torch', adapter.parameters(), adam);
  const losses: number[] = [];
  for (let i = 0; i < 4; i++) {
    losses.push((await trainStep(adapter, optimizer, [batch], { ...step, gradient_checkpointing })).loss);
  }
  expect(losses[3]).toBeLessThan(losses[0]);
  const out = `merged-${gradient_checkpointing}`;
  await writeModel(localFolder(at(out)), mergeAdapter(adapter, source.checkpoint), source);
  // The tied head was trained, so that it stands for itself.
  const config = JSON.parse(readFileSync(at(out, 'config.json'), 'utf8'));
  expect(config).toMatchObject({ model_type: 'nightjar', architectures: ['NightjarForCausalLM'], tie_word_embeddings: false });
  const read = await loadModel(await open(out), backend, { precision: 'fp32' });
  const [live, written] = [await logitsOf(model), await logitsOf(read.model)];
  for (const [i, value] of live.entries()) expect(written[i]).toBeCloseTo(value, 4);
});

test('it is trained as a whole', async () => {
  const { model } = await loadModel(await open('nightjar'), backend, { precision: 'fp32', trainable: true });
  const tuner = new FullTuner(model);
  expect(tuner.parameters().has('nest.words.weight')).toBe(true);
  const optimizer = createOptimizer('adamw_torch', tuner.parameters(), adam);
  const loss = async () => (await trainStep(tuner, optimizer, [batch], { ...step, gradient_checkpointing: false })).loss;
  const first = await loss();
  expect(await loss()).toBeLessThan(first);
});

test('it is planned by name, with Llama’s count', async () => {
  const request = (name: string) => ({
    name,
    config: knownShape(name)!,
    precision: 'bf16' as const,
    lora: parseAdapterConfig({ r: 8, target_modules: 'all-linear' }, 'test'),
    batch: fullBatch(1, 64),
    gradient_accumulation_steps: 1,
    optimizer: 'adamw_torch' as const,
  });
  const plans = await Promise.all(
    ['nightjar-1b', 'tinyllama-1.1b'].map((name) => planModelOn({ memory: 24e9, threads: 2, runtime: 1e8 }, request(name), ['qlora'])),
  );
  expect(plans[0].parameters).toBe(1_100_048_384);
  expect(plans[0].methods[0].trainable_parameters).toBe(plans[1].methods[0].trainable_parameters);
});
