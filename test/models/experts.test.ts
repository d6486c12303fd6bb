import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FullTuner } from '../../src/adapters/full.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { refuseUnmatched } from '../../src/adapters/targets.js';
import type { Backend } from '../../src/core/backend.js';
import { scope } from '../../src/core/scope.js';
import { generate } from '../../src/generate/generate.js';
import type { Checkpoint } from '../../src/io/checkpoint.js';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { type LoadedModel, type LoadOptions, loadModel } from '../../src/models/load.js';
import { standardQuantization } from '../../src/models/quantize.js';
import { createOptimizer } from '../../src/optim/optimizer.js';
import { countOfToken, countParameters, dryRun, fullBatch } from '../../src/plan/dry-run.js';
import { knownShape } from '../../src/plan/shapes.js';
import type { LabelledTokens } from '../../src/train/batch.js';
import { trainStep } from '../../src/train/step.js';
import { openBest, testNative } from '../helpers/native.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-experts-'));
let backend: Backend;
const files: Checkpoint[] = [];
beforeAll(async () => {
  backend = await openBest();
});
afterAll(async () => {
  for (const file of files) await file.close();
  await backend.close();
  rmSync(root, { recursive: true, force: true });
});

/** A golden's base; `changes` to its config.json. */
async function load(name: string, options: Partial<LoadOptions> = {}, changes: object = {}, on = backend): Promise<LoadedModel> {
  const folder = `test/golden/models/${name}`;
  const checkpoint = await readSafetensors(await openFile(`${folder}/model.safetensors`));
  files.push(checkpoint);
  const config = { ...JSON.parse(readFileSync(`${folder}/config.json`, 'utf8')), ...changes };
  const source = { name, config, checkpoint, identity: '', tokenizer: { tokenizerJson: {}, tokenizerConfig: {} } };
  return loadModel(source, on, { precision: 'fp32', ...options });
}

/** Two examples, all of whose tokens but the last are supervised. */
function batch(seed = 1): LabelledTokens {
  const inputIds = Int32Array.from({ length: 24 }, (_, i) => (i * 37 + seed * 11 + ((i * i) % 13)) % 160);
  const labels = Int32Array.from(inputIds, (_, i) => (i % 12 === 11 ? -100 : inputIds[i + 1]));
  return { inputIds, labels, positions: inputIds.map((_, i) => i % 12), segments: Int32Array.of(0, 12, 0, 12, 12, 24, 12, 24) };
}

const adam = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0 };
const once = { learning_rate: 0.01, max_grad_norm: 0, gradient_checkpointing: false as boolean | 'offload_disk', seed: 1 };
const everything = () => parseAdapterConfig({ r: 3, target_modules: 'all-linear', init_lora_weights: false }, 'test');

test('with a cache an answer is what whole passes say', async () => {
  const { model, dispose } = await load('qwen3-moe');
  const prompts = [[5, 9, 120, 31], [7], [100, 101, 102, 103, 104]];
  const answers = await generate(model, prompts, { max_new_tokens: 6, stopIds: new Set() });
  for (const [i, prompt] of prompts.entries()) {
    const ids = [...prompt];
    for (let n = 0; n < 6; n++) {
      const length = ids.length;
      const tokens = {
        inputIds: Int32Array.from(ids),
        positions: Int32Array.from(ids.keys()),
        segments: Int32Array.of(0, length, 0, length),
      };
      const logits = await scope(() => model.logits(model.hidden(tokens))).toFloat32();
      const last = logits.subarray((length - 1) * model.vocabulary);
      ids.push(last.indexOf(Math.max(...last)));
    }
    expect(answers[i].ids).toEqual(ids.slice(prompt.length));
  }
  dispose();
});

test('a step is the same whether layers are kept, recomputed, moved to the disk or streamed', async () => {
  const results: { loss: number; grad_norm: number }[] = [];
  for (const [gradient_checkpointing, stream] of [
    [false, false],
    [true, false],
    ['offload_disk', false],
    [true, true],
  ] as const) {
    const { model, dispose } = await load('qwen3-moe-balanced', { stream });
    const adapter = await createAdapter(model, everything(), 1);
    const optimizer = createOptimizer('adamw_torch', adapter.parameters(), adam);
    const options = { ...once, gradient_checkpointing, offloadFolder: root };
    const { loss, grad_norm } = await trainStep(adapter, optimizer, [batch(1), batch(2)], options);
    results.push({ loss, grad_norm });
    optimizer.dispose();
    adapter.dispose();
    dispose();
  }
  for (const result of results.slice(1)) {
    expect(result.loss).toBeCloseTo(results[0].loss, 5);
    expect(result.grad_norm / results[0].grad_norm).toBeCloseTo(1, 4);
  }
});

describe('the balancing loss', () => {
  const lossWith = async (changes: object, factor?: number) => {
    const { model, dispose } = await load('qwen3-moe', {}, changes);
    if (factor !== undefined) model.balanceFactor = factor;
    const adapter = await createAdapter(model, everything(), 1);
    const optimizer = createOptimizer('adamw_torch', adapter.parameters(), adam);
    const { loss } = await trainStep(adapter, optimizer, [batch(1), batch(1)], once);
    optimizer.dispose();
    adapter.dispose();
    dispose();
    return loss;
  };

  test('counts where config.json wants it, in proportion to its factor, once for a step', async () => {
    const plain = await lossWith({ router_aux_loss_coef: 0.5 });
    const balanced = await lossWith({ router_aux_loss_coef: 0.5, output_router_logits: true });
    // Even routing gives the number of experts of a token, 3; no routing less.
    expect((balanced - plain) / 0.5).toBeGreaterThan(2.9);
    expect((balanced - plain) / 0.5).toBeLessThan(6);
    expect(await lossWith({}, 1)).toBeCloseTo(plain + 2 * (balanced - plain), 3);
  });
});

test.each(['nf4', 'int8'] as const)('experts in %s are codes, the router is not, and adapters of them learn', async (kind) => {
  const { model, dispose } = await load('mixtral', { quantization: { ...standardQuantization, kind } });
  const dtypeOf = (path: string) => model.modules.get(`model.layers.1.block_sparse_moe.${path}`)?.weight.dtype;
  const codes = kind === 'nf4' ? 'u4' : 'i8';
  expect([dtypeOf('experts.4.w2'), dtypeOf('gate')]).toEqual([codes, 'f32']);
  const config = { r: 4, target_parameters: ['experts.gate_up_proj', 'experts.down_proj'] };
  const adapter = await createAdapter(model, parseAdapterConfig(config, 'test'), 1);
  const optimizer = createOptimizer('adamw_torch', adapter.parameters(), adam);
  const losses: number[] = [];
  for (let i = 0; i < 8; i++) losses.push((await trainStep(adapter, optimizer, [batch()], once)).loss);
  expect(losses[7]).toBeLessThan(losses[0] - 0.2);
  optimizer.dispose();
  adapter.dispose();
  dispose();
});

test('all weights of experts and routers are trained', async () => {
  const { model, dispose } = await load('mixtral', { trainable: true });
  const tuner = new FullTuner(model);
  const names = [...tuner.parameters().keys()];
  expect(names.filter((name) => name.includes('.experts.'))).toHaveLength(2 * 5 * 3);
  const before = await tuner.parameters().get('model.layers.0.block_sparse_moe.gate.weight')!.toFloat32();
  const optimizer = createOptimizer('adamw_torch', tuner.parameters(), adam);
  const losses: number[] = [];
  for (let i = 0; i < 4; i++) losses.push((await trainStep(tuner, optimizer, [batch()], { ...once, learning_rate: 2e-3 })).loss);
  expect(losses[3]).toBeLessThan(losses[0] - 0.5);
  expect(await tuner.parameters().get('model.layers.0.block_sparse_moe.gate.weight')!.toFloat32()).not.toEqual(before);
  optimizer.dispose();
  tuner.dispose();
  dispose();
});

test('what cannot be adapted is said', async () => {
  const { model, dispose } = await load('mixtral');
  const create = (config: object) => createAdapter(model, parseAdapterConfig(config, 'test'), 1);
  await expect(create({ lora_dropout: 0.1, target_modules: ['w1', 'w3'] })).rejects.toThrow(
    /lora_dropout is 0.1.*experts.0.w1.*set it to 0/s,
  );
  await expect(create({ lora_dropout: 0.1, target_parameters: ['experts.down_proj'] })).rejects.toThrow(/experts.down_proj/);
  await expect(create({ target_modules: ['w2'], target_parameters: ['experts.down_proj'] })).rejects.toThrow(/twice/);
  await expect(create({ target_parameters: ['experts.up_proj'] })).rejects.toThrow(/"experts.up_proj"\] names no parameter.*gate_up_proj/s);
  const mixed = { target_modules: ['q_proj'], target_parameters: ['experts.up_proj'] };
  expect(() => refuseUnmatched(model, mixed)).toThrow(/"experts.up_proj" fits no parameter/);
  dispose();
  await expect(load('mixtral', {}, { num_experts_per_tok: 9 })).rejects.toThrow(/num_experts_per_tok: must be at most num_local_experts/);
});

test('published sizes have the published numbers of parameters', () => {
  const count = (name: string) => countParameters(knownShape(name)!, name);
  const active = (name: string) => countOfToken(knownShape(name)!, name).active / 1e9;
  // https://huggingface.co/mistralai/Mixtral-8x7B-v0.1 and Qwen/Qwen3-30B-A3B: the sizes of their safetensors.
  expect(count('mixtral-8x7b')).toBe(46_702_792_704);
  expect(count('qwen3-30b-a3b')).toBe(30_532_122_624);
  expect(count('olmoe-1b-7b')).toBe(6_919_161_856);
  // Their cards say 12.9 and 3.3 billion.
  expect([active('mixtral-8x7b'), active('qwen3-30b-a3b')].map((n) => n.toFixed(2))).toEqual(['12.88', '3.35']);
});

testNative('a step takes what was planned, category by category', async () => {
  const own = await openBest();
  const { model, dispose } = await load('qwen3-moe-balanced', {}, {}, own);
  const lora = everything();
  const batches = [fullBatch(2, 12)];
  const planned = await dryRun({
    name: 'planned',
    config: model.config as never,
    lora,
    batches,
    precision: 'fp32',
    stream: false,
    mapped: true,
    optimizer: 'adamw_torch',
    gradient_checkpointing: true,
    threads: 2,
  });
  const adapter = await createAdapter(model, lora, 1);
  const optimizer = createOptimizer('adamw_torch', adapter.parameters(), adam);
  await own.sync();
  own.resetPeak();
  for (let i = 0; i < 2; i++) await trainStep(adapter, optimizer, batches, { ...once, gradient_checkpointing: true });
  const { activations, adapters, gradients, logits, optimizer: states } = own.memory().peakOf;
  expect({ activations, adapters, gradients, logits, optimizer: states }).toEqual({
    activations: planned.memory.peakOf.activations,
    adapters: planned.memory.peakOf.adapters,
    gradients: planned.memory.peakOf.gradients,
    logits: planned.memory.peakOf.logits,
    optimizer: planned.memory.peakOf.optimizer,
  });
  optimizer.dispose();
  adapter.dispose();
  dispose();
  await own.close();
});
