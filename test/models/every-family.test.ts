import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { adapterConfigJson } from '../../src/adapters/folder.js';
import { FullTuner } from '../../src/adapters/full.js';
import { mergeAdapter } from '../../src/adapters/merge.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import type { Backend } from '../../src/core/backend.js';
import { scope } from '../../src/core/scope.js';
import { generate } from '../../src/generate/generate.js';
import type { StoredTensor } from '../../src/io/checkpoint.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { localFolder } from '../../src/io/node/folder.js';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { type LoadOptions, loadModel } from '../../src/models/load.js';
import { withModelNames } from '../../src/models/names.js';
import type { CausalLM } from '../../src/nn/model.js';
import { createOptimizer } from '../../src/optim/optimizer.js';
import { countParameters } from '../../src/plan/dry-run.js';
import { checkRecipe } from '../../src/runs/recipe.js';
import { beginTuning, openTuning } from '../../src/runs/tuning.js';
import { trainStep } from '../../src/train/step.js';
import type { JsonObject } from '../../src/util/json.js';
import { openBest } from '../helpers/native.js';

let backend: Backend;
const opened: ModelSource[] = [];
beforeAll(async () => {
  backend = await openBest();
});
afterAll(async () => {
  for (const { checkpoint } of opened) await checkpoint.close();
  await backend.close();
});

const folder = 'test/golden/models';
async function open(name: string, change: (tensors: Map<string, StoredTensor>) => void = () => {}): Promise<ModelSource> {
  const config: JsonObject = JSON.parse(readFileSync(`${folder}/${name}/config.json`, 'utf8'));
  const checkpoint = await readSafetensors(await openFile(`${folder}/${name}/model.safetensors`));
  const tensors = new Map(checkpoint.tensors);
  change(tensors);
  const tokenizer = { tokenizerJson: {}, tokenizerConfig: {} };
  const source = { name, config, checkpoint: { ...checkpoint, tensors }, identity: '', tokenizer };
  opened.push(source);
  return withModelNames(source);
}

const load = async (source: ModelSource, options: Partial<LoadOptions> = {}) =>
  (await loadModel(source, backend, { precision: 'fp32', ...options })).model;
const tokens = (ids: readonly number[]) => ({
  inputIds: Int32Array.from(ids),
  positions: Int32Array.from(ids.keys()),
  segments: Int32Array.of(0, ids.length, 0, ids.length),
});
const logitsOf = (model: CausalLM, ids: readonly number[]) => scope(() => model.logits(model.hidden(tokens(ids)))).toFloat32();

const prompt = [5, 1, 80, 2, 9, 3, 44, 7, 7, 12];
const batch = { ...tokens(prompt), labels: Int32Array.of(...prompt.slice(1), -100) };
/** Enough tokens that each expert of a mixture gets some. */
const longer = Array.from({ length: 48 }, (_, i) => (37 * i + 11) % 160);
const longBatch = { ...tokens(longer), labels: Int32Array.of(...longer.slice(1), -100) };
const adam = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0 };
const step = { learning_rate: 1e-3, max_grad_norm: 1, gradient_checkpointing: true, seed: 1 };

describe.each(readdirSync(folder))('%s', (name) => {
  test('answers with a cache as without, token by token', async () => {
    const model = await load(await open(name));
    const [answer] = await generate(model, [prompt], { max_new_tokens: 5, stopIds: new Set() });
    const ids = [...prompt];
    for (let n = 0; n < 5; n++) {
      const last = (await logitsOf(model, ids)).slice(-model.vocabulary);
      ids.push(last.indexOf(Math.max(...last)));
    }
    expect(answer.ids).toEqual(ids.slice(prompt.length));
  });

  test('is counted by its config.json alone, and all of it is trained', async () => {
    const source = await open(name);
    const stored = [...source.checkpoint.tensors].filter(([path]) => path !== 'lm_head.weight' || !source.config.tie_word_embeddings);
    const size = stored.reduce((sum, [, { shape }]) => sum + shape.reduce((product, n) => product * n, 1), 0);
    expect(countParameters(source.config, name)).toBe(size);
    const tuner = new FullTuner(await load(source, { trainable: true }));
    expect(tuner.count().all).toBe(size);
    const before = new Map<string, Float32Array>();
    for (const [path, tensor] of tuner.parameters()) before.set(path, await tensor.toFloat32());
    await trainStep(tuner, createOptimizer('adamw_torch', tuner.parameters(), adam), [longBatch], step);
    for (const [path, tensor] of tuner.parameters()) expect(await tensor.toFloat32(), path).not.toEqual(before.get(path));
  });
});

test.each(['gpt2', 'gpt-neox', 'mistral3'])('a checkpoint of %s as a whole is read back, and is a model’s folder', async (name) => {
  const source = await open(name);
  const recipe = checkRecipe({ base_model: name, datasets: [{ path: 'rows.jsonl' }], adapter: 'full', output_dir: 'out' });
  const inputs = async () => ({ recipe, source, model: await load(source, { trainable: true }), texts: source });
  const first = await beginTuning(await inputs());
  await trainStep(first.tuner, createOptimizer('adamw_torch', first.tuner.parameters(), adam), [batch], step);
  const root = mkdtempSync(join(tmpdir(), 'lowrank-checkpoint-'));
  await first.saveCheckpoint(localFolder(root));
  const second = await openTuning(await inputs(), localFolder(root));
  for (const [path, tensor] of second.tuner.parameters())
    expect(await tensor.toFloat32(), path).toEqual(await first.tuner.parameters().get(path)!.toFloat32());
  const checkpoint = await readSafetensors(await openFile(join(root, 'model.safetensors')));
  const opened = await load(withModelNames({ ...source, checkpoint }));
  expect(await logitsOf(opened, prompt)).toEqual(await logitsOf(first.tuner.model, prompt));
  await checkpoint.close();
  rmSync(root, { recursive: true });
});

describe('matrices that files hold as [in,out]', () => {
  test('stand in a merged model as in its base, and an adapter’s file says so', async () => {
    const source = await open('gpt2');
    const model = await load(source);
    const config = { r: 2, target_modules: ['c_fc'], init_lora_weights: false };
    const adapter = await createAdapter(model, parseAdapterConfig(config, 'test'), 1);
    expect(JSON.parse(adapterConfigJson(adapter, 'base')).fan_in_fan_out).toBe(true);
    const expected = await logitsOf(model, prompt);
    const { tensors } = mergeAdapter(adapter, source.checkpoint);
    const bases = await readSafetensors(await openFile(`${folder}/gpt2/model.safetensors`));
    const changed: string[] = [];
    for (const { name, shape, data } of tensors) {
      const base = bases.tensors.get(name)!;
      expect(shape, name).toEqual(base.shape);
      if (!Buffer.from(await data()).equals(await base.read())) changed.push(name);
    }
    expect(changed).toEqual([0, 1].map((i) => `transformer.h.${i}.mlp.c_fc.weight`));
    const written = new Map(tensors.map((tensor) => [tensor.name, tensor]));
    const merged = await open('gpt2', (stored) => {
      for (const name of changed) {
        const readInto: StoredTensor['readInto'] = async (_, write) => write(0, await written.get(name)!.data());
        stored.set(name, { ...stored.get(name)!, inPlace: false, readInto, readAs: async () => written.get(name)!.data() });
      }
    });
    await bases.close();
    const read = await logitsOf(await load(merged), prompt);
    for (const [i, value] of expected.entries()) expect(read[i]).toBeCloseTo(value, 4);
  });

  test('of a file without prefix, with the masks that old ones hold', async () => {
    const model = await load(await open('gpt2'));
    const old = await open('gpt2', (tensors) => {
      for (const [name, stored] of [...tensors]) {
        tensors.delete(name);
        const short = name.replace('transformer.', '');
        tensors.set(short, { ...stored, name: short });
      }
      const mask = { ...tensors.get('ln_f.bias')!, name: 'h.0.attn.bias', dtype: 'BOOL', shape: [1, 1, 6, 8] };
      tensors.set(mask.name, mask);
    });
    expect(old.checkpoint.others!.map(({ name }) => name)).toEqual(['h.0.attn.bias']);
    expect(await logitsOf(await load(old), prompt)).toEqual(await logitsOf(model, prompt));
  });
});

test('more tokens than there are learned positions are refused with their number', async () => {
  const model = await load(await open('gpt2'));
  expect(() => logitsOf(model, Array(65).fill(3))).toThrow(/a sequence has 65 tokens[\s\S]*at most 64/);
});
