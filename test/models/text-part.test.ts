import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { adapterConfigJson, loadAdapter } from '../../src/adapters/folder.js';
import { mergeAdapter } from '../../src/adapters/merge.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import { scope } from '../../src/core/scope.js';
import type { StoredTensor } from '../../src/io/checkpoint.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { localFolder } from '../../src/io/node/folder.js';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { loadModel } from '../../src/models/load.js';
import { withModelNames } from '../../src/models/names.js';
import { standardQuantization } from '../../src/models/quantize.js';
import { quantizeModel } from '../../src/models/quantized-model.js';
import type { CausalLM } from '../../src/nn/model.js';
import { countParameters } from '../../src/plan/dry-run.js';
import { knownShape } from '../../src/plan/shapes.js';
import { checkRecipe } from '../../src/runs/recipe.js';
import { beginTuning } from '../../src/runs/tuning.js';
import type { JsonObject } from '../../src/util/json.js';

const backend = new ReferenceBackend();
const opened: ModelSource[] = [];
afterAll(async () => {
  for (const { checkpoint } of opened) await checkpoint.close();
});

/** A golden with its files' names changed, as another layout has them. */
async function open(golden: string, rename: (name: string) => string = (name) => name, change: JsonObject = {}): Promise<ModelSource> {
  const folder = `test/golden/models/${golden}`;
  const checkpoint = await readSafetensors(await openFile(`${folder}/model.safetensors`));
  const config: JsonObject = { ...JSON.parse(readFileSync(`${folder}/config.json`, 'utf8')), ...change };
  const renamed = Array.from(checkpoint.tensors.values(), (stored): [string, StoredTensor] => {
    const name = rename(stored.name);
    return [name, { ...stored, name }];
  });
  const tokenizer = { tokenizerJson: {}, tokenizerConfig: {} };
  const source = { name: golden, config, checkpoint: { ...checkpoint, tensors: new Map(renamed) }, identity: '', tokenizer };
  opened.push(source);
  return withModelNames(source);
}

const n = 5;
const tokens = {
  inputIds: Int32Array.of(5, 1, 80, 2, 9),
  positions: Int32Array.from(Array(n).keys()),
  segments: Int32Array.of(0, n, 0, n),
};
const logitsOf = (model: CausalLM) => scope(() => model.logits(model.hidden(tokens))).toFloat32();
const load = async (source: ModelSource) => (await loadModel(source, backend, { precision: 'fp32' })).model;

const newer = (name: string) =>
  name
    .replace(/^language_model\.(lm_head)/, '$1')
    .replace(/^language_model\.model/, 'language_model')
    .replace(/^(?!lm_head)/, 'model.');
const newerQwen = (name: string) => name.replace(/^model\./, 'model.language_model.').replace(/^visual/, 'model.visual');

test.each([
  ['gemma3-multimodal', newer, /^language_model\.model\./, /^model\.language_model\./],
  ['mistral3', newer, /^language_model\./, /^(model\.language_model|lm_head)\./],
  ['qwen2-vl', newerQwen, /^model\.(?!language_model|visual)/, /^model\.language_model\./],
] as const)('both layouts of %s answer alike, and keep their names', async (golden, rename, here, there) => {
  const [stored, renamed] = [await open(golden), await open(golden, rename)];
  expect(await logitsOf(await load(renamed))).toEqual(await logitsOf(await load(stored)));
  for (const [{ checkpoint }, names] of [
    [stored, here],
    [renamed, there],
  ] as const) {
    for (const { name } of checkpoint.tensors.values()) expect(name).toMatch(names);
    expect(checkpoint.others!.length).toBeGreaterThan(10);
    for (const { name } of checkpoint.others!) expect(name).toMatch(/vis|projector/);
  }
});

test('an adapter is for the text part by its paths, and a merged model holds the rest byte for byte', async () => {
  const source = await open('gemma3-multimodal');
  const model = await load(source);
  const adapter = await createAdapter(model, parseAdapterConfig({ r: 2, target_modules: ['q_proj'], init_lora_weights: false }, 'test'), 1);
  const written = JSON.parse(adapterConfigJson(adapter, 'base'));
  expect(written.target_modules).toEqual([0, 1].map((i) => `model.language_model.layers.${i}.self_attn.q_proj`));
  const before = await open('gemma3-multimodal');
  const stored = new Map([...before.checkpoint.tensors.values(), ...before.checkpoint.others!].map((tensor) => [tensor.name, tensor]));
  const { tensors, config } = mergeAdapter(adapter, source.checkpoint);
  expect(config).toEqual(source.config);
  expect(tensors.map(({ name }) => name).sort()).toEqual([...stored.keys()].sort());
  const changed: string[] = [];
  for (const { name, data } of tensors) if (!Buffer.from(await data()).equals(await stored.get(name)!.read())) changed.push(name);
  expect(changed).toEqual([0, 1].map((i) => `language_model.model.layers.${i}.self_attn.q_proj.weight`));
});

test('a head that was trained is untied in both configurations', async () => {
  const source = await open('gemma3-multimodal');
  const config = parseAdapterConfig({ r: 2, modules_to_save: ['lm_head'], target_modules: ['q_proj'] }, 'test');
  const merged = mergeAdapter(await createAdapter(await load(source), config, 1), source.checkpoint);
  expect(merged.config).toMatchObject({ tie_word_embeddings: false, text_config: { tie_word_embeddings: false } });
  expect(merged.tensors.map(({ name }) => name)).toContain('lm_head.weight');
});

test('whether the head is tied the whole model’s config.json says before its text_config', async () => {
  await expect(load(await open('gemma3-multimodal', undefined, { tie_word_embeddings: false }))).rejects.toThrow(
    /"lm_head.weight": is missing/,
  );
});

test('the flat config.json of older files is the text part’s own', async () => {
  const { text_config: text, ...rest } = (await open('qwen2-vl')).config as { text_config: JsonObject };
  const { rope_parameters: _, model_type: __, ...sizes } = text;
  const rope_scaling = { type: 'mrope', mrope_section: [1, 1, 2] };
  const flat = await open('qwen2-vl', undefined, { ...rest, ...sizes, text_config: null, rope_scaling, rope_theta: 10000 });
  expect(await logitsOf(await load(flat))).toEqual(await logitsOf(await load(await open('qwen2-vl'))));
});

test('an adapter that changes what sees is refused by that', async () => {
  const model = await load(await open('gemma3-multimodal'));
  const folder = 'test/golden/models/gemma3-multimodal/adapter';
  const checkpoint = await readSafetensors(await openFile(`${folder}/adapter_model.safetensors`));
  const [[, some]] = checkpoint.tensors;
  const name = 'base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight';
  const more = { ...checkpoint, tensors: new Map([...checkpoint.tensors, [name, { ...some, name }]]) };
  const config = JSON.parse(readFileSync(`${folder}/adapter_config.json`, 'utf8'));
  await expect(loadAdapter(model, config, more, 'adapter')).rejects.toThrow(/vision_tower[\s\S]*text part[\s\S]*merge it/);
  await checkpoint.close();
});

test('what sees is not quantised', async () => {
  const { tensors, quantizationConfig, dispose } = quantizeModel(await open('gemma3-multimodal'), backend, standardQuantization);
  dispose();
  expect(quantizationConfig.llm_int8_skip_modules).toEqual(['lm_head', 'model.vision_tower', 'model.multi_modal_projector']);
  const codes = tensors.filter(({ name }) => name.endsWith('quant_map')).map(({ name }) => name);
  expect(codes.length).toBeGreaterThan(10);
  expect(codes.filter((name) => !name.startsWith('language_model.model.layers'))).toEqual([]);
});

test('a text part of another family is refused by its name', async () => {
  const source = await open('mistral3', undefined, { text_config: { model_type: 'ministral3' } });
  await expect(load(source)).rejects.toThrow(/text_config: the text part's model_type "ministral3" is not supported[\s\S]*mistral/);
});

test('full fine-tuning writes the rest along, with what is said of images', async () => {
  const source = await open('mistral3');
  const { model } = await loadModel(source, backend, { precision: 'fp32', trainable: true });
  const recipe = checkRecipe({ base_model: 'mistral3', datasets: [{ path: 'rows.jsonl' }], adapter: 'full', output_dir: 'out' });
  const processor = { image_processor_type: 'PixtralImageProcessor' };
  const texts = { ...source, processors: { 'preprocessor_config.json': processor } };
  const tuning = await beginTuning({ recipe, source, model, texts });
  model.modules.get('lm_head')!.weight.write(new Uint8Array(4 * 160 * 48));
  const out = mkdtempSync(join(tmpdir(), 'lowrank-text-part-'));
  await tuning.saveResult(localFolder(out), async () => {});
  const read = await readSafetensors(await openFile(join(out, 'model.safetensors')));
  const stored = await readSafetensors(await openFile('test/golden/models/mistral3/model.safetensors'));
  const changed: string[] = [];
  expect([...read.tensors.keys()].sort()).toEqual([...stored.tensors.keys()].sort());
  for (const [name, tensor] of stored.tensors)
    if (!Buffer.from(await read.tensors.get(name)!.read()).equals(await tensor.read())) changed.push(name);
  expect(changed).toEqual(['language_model.lm_head.weight']);
  expect(JSON.parse(readFileSync(join(out, 'preprocessor_config.json'), 'utf8'))).toEqual(processor);
  for (const file of [read, stored]) await file.close();
  rmSync(out, { recursive: true });
});

// Of the whole model on the hub 4,300,079,472, of which 416,866,032 are SigLIP's and 2,950,272 the projector's.
test('text parts are planned by name', () => {
  expect(countParameters(knownShape('gemma-3-4b')!, 'gemma-3-4b')).toBe(4_300_079_472 - 416_866_032 - 2_950_272);
});
