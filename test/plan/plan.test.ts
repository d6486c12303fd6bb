import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FullTuner } from '../../src/adapters/full.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { openCpuBackend } from '../../src/backends/cpu/index.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { loadModel } from '../../src/models/load.js';
import { standardQuantization } from '../../src/models/quantize.js';
import { createOptimizer, type OptimizerName } from '../../src/optim/optimizer.js';
import { countParameters, dryRun, fullBatch, type StepToPlan } from '../../src/plan/dry-run.js';
import { type PlanMachine, planModelOn, quotedArithmetic } from '../../src/plan/plan.js';
import { knownShape, shapeNames } from '../../src/plan/shapes.js';
import { openModel } from '../../src/runs/node.js';
import { trainStep } from '../../src/train/step.js';
import { describeNative } from '../helpers/native.js';
import { tinyLlama } from '../helpers/tiny-llama.js';
import { tinyConfig, writeTinyModel } from '../helpers/tiny-model.js';

/** Parameters as the models' own pages and safetensors files have them. */
const published: Record<string, number> = {
  'llama-2-7b': 6_738_415_616,
  'llama-2-13b': 13_015_864_320,
  'llama-2-70b': 68_976_648_192,
  'llama-3.1-8b': 8_030_261_248,
  'llama-3.1-70b': 70_553_706_496,
  'llama-3.2-1b': 1_235_814_400,
  'llama-3.2-3b': 3_212_749_824,
  'smollm2-135m': 134_515_008,
  'smollm2-360m': 361_821_120,
  'smollm2-1.7b': 1_711_376_384,
  'tinyllama-1.1b': 1_100_048_384,
  'mistral-7b': 7_241_732_096,
  'mistral-7b-v0.3': 7_248_023_552,
  'qwen2.5-0.5b': 494_032_768,
  'qwen2.5-1.5b': 1_543_714_304,
  'qwen2.5-3b': 3_085_938_688,
  'qwen2.5-7b': 7_615_616_512,
  'qwen2.5-14b': 14_770_033_664,
  'qwen2.5-32b': 32_763_876_352,
  'qwen2.5-72b': 72_706_203_648,
  'qwen3-8b': 8_190_735_360,
  'gemma-2-2b': 2_614_341_888,
  'gemma-2-9b': 9_241_705_984,
  'gemma-2-27b': 27_227_128_320,
  'lfm2-350m': 354_483_968,
  'lfm2-1.2b': 1_170_340_608,
};

test.each(Object.entries(published))('%s has %d parameters', (name, parameters) => {
  expect(countParameters(knownShape(name)!, name)).toBe(parameters);
});

test('what is built of a known shape has as many parameters', async () => {
  const config = knownShape('smollm2-135m')!;
  const step = { config, lora: parseAdapterConfig({ r: 8, target_modules: ['q_proj'] }, 'test'), batches: [fullBatch(1, 8)] };
  const { all, trainable } = await dryRun({ ...common, ...step });
  expect(all - trainable).toBe(countParameters(config, 'smollm2-135m'));
  expect(trainable).toBe(30 * 8 * (576 + 576));
});

test('the arithmetic that everyone quotes', () => {
  const parameters = countParameters(knownShape('llama-2-7b')!, 'llama-2-7b');
  const { full_16_bit: full, full_16_bit_nominal: nominal, low_rank: low } = quotedArithmetic('llama-2-7b', parameters);
  expect(full).toMatchObject({ weights: 13_476_831_232, gradients: 13_476_831_232, adam: 26_953_662_464 });
  expect(nominal).toMatchObject({ weights: 14e9, gradients: 14e9, adam: 28e9 });
  expect(low).toMatchObject({ parameters: 16_777_216, trained: 65_536, percent_fewer: 99.6 });
});

const common: Omit<StepToPlan, 'config' | 'batches'> = {
  name: 'planned',
  precision: 'bf16',
  stream: false,
  mapped: true,
  optimizer: 'adamw_torch',
  gradient_checkpointing: false,
  threads: 2,
};

const root = mkdtempSync(join(tmpdir(), 'lowrank-plan-'));
let source: ModelSource;
beforeAll(async () => {
  source = await openModel(await writeTinyModel(join(root, 'model'), { hidden_size: 96, num_hidden_layers: 3 }, 'BF16'));
});
afterAll(async () => {
  await source.checkpoint.close();
  rmSync(root, { recursive: true, force: true });
});

const lora = parseAdapterConfig({ r: 4, target_modules: 'all-linear', lora_dropout: 0.1 }, 'test');
const onEmbedding = parseAdapterConfig({ r: 4, target_modules: ['embed_tokens', 'q_proj'] }, 'test');
const ways: Record<string, Partial<StepToPlan>> = {
  LoRA: { lora },
  'LoRA, checkpointed': { lora, gradient_checkpointing: true },
  'LoRA, fp32': { lora, precision: 'fp32', mapped: false },
  'LoRA, two micro-batches': { lora, batches: [fullBatch(2, 40), fullBatch(2, 40)] },
  'LoRA on the embedding, two micro-batches': { lora: onEmbedding, batches: [fullBatch(2, 40), fullBatch(2, 40)] },
  'QLoRA, 8-bit AdamW': { lora, quantization: standardQuantization, optimizer: 'adamw_bnb_8bit' },
  'int8, Lion': { lora, quantization: { kind: 'int8', blockSize: 64, double: false }, optimizer: 'lion_pytorch' },
  full: { optimizer: 'adamw_torch' },
  'full, checkpointed, Adafactor': { optimizer: 'adafactor', gradient_checkpointing: true },
};

describeNative('a step on the processor', () => {
  test.each(Object.entries(ways))('%s: takes what was planned, category by category', async (_, way) => {
    const step: StepToPlan = { ...common, config: source.config, batches: [fullBatch(2, 40)], ...way };
    const planned = await dryRun(step);
    const backend = await openCpuBackend({ threads: 2 });
    const loaded = await loadModel(source, backend, { precision: step.precision, quantization: step.quantization, trainable: !step.lora });
    const tuner = step.lora ? await createAdapter(loaded.model, step.lora, 1) : new FullTuner(loaded.model);
    const settings = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0 };
    const optimizer = createOptimizer(step.optimizer as OptimizerName, tuner.parameters(), settings);
    backend.resetPeak();
    const options = { learning_rate: 1e-3, max_grad_norm: 1, gradient_checkpointing: step.gradient_checkpointing, seed: 1 };
    for (let i = 0; i < 2; i++) await trainStep(tuner, optimizer, step.batches, options);
    const { workspace: _w, ...got } = backend.memory().peakOf;
    const { workspace: _p, ...want } = planned.memory.peakOf;
    expect(got).toEqual(want);
    expect(planned.trainable).toBe(tuner.count().trainable);
    optimizer.dispose();
    tuner.dispose();
    loaded.dispose();
    await backend.close();
  });

  test('the scratch memory of kernels is about what was estimated', async () => {
    const config = {
      ...tinyConfig,
      hidden_size: 768,
      intermediate_size: 2048,
      num_attention_heads: 12,
      num_key_value_heads: 4,
      vocab_size: 500,
    };
    const step: StepToPlan = { ...common, config, lora, batches: [fullBatch(1, 384)] };
    const planned = await dryRun(step);
    const backend = await openCpuBackend({ threads: 2 });
    const model = tinyLlama(backend, config, 'bf16');
    const adapter = await createAdapter(model, lora, 1);
    const settings = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0 };
    const optimizer = createOptimizer('adamw_torch', adapter.parameters(), settings);
    backend.resetPeak();
    await trainStep(adapter, optimizer, step.batches, { learning_rate: 1e-3, max_grad_norm: 1, gradient_checkpointing: false, seed: 1 });
    const share = planned.memory.peakOf.workspace / backend.memory().peakOf.workspace;
    // Tiles of one instruction set stand for all; tile registers take more.
    expect(share).toBeGreaterThan(0.5);
    expect(share).toBeLessThan(2);
    await backend.close();
  });
});

describe('a plan for a machine', () => {
  const machine = (gigabytes: number): PlanMachine => ({ memory: gigabytes * 1e9, threads: 2, rate: 400e9, runtime: 0.06e9 });
  const request = (name: string) =>
    ({
      name,
      config: knownShape(name)!,
      precision: 'bf16',
      lora: parseAdapterConfig({ r: 64, target_modules: 'all-linear' }, 'test'),
      batch: fullBatch(1, 512),
      gradient_accumulation_steps: 1,
      optimizer: 'adamw_torch',
    }) as const;

  test.each([
    [64, 'llama-2-7b', 'lora'],
    [8, 'llama-2-7b', 'qlora'],
    [12, 'llama-1-65b', 'qlora'],
    [24, 'smollm2-135m', 'lora'],
  ] as const)('of %d GB: %s by %s', async (gigabytes, name, method) => {
    const { recommendation, methods } = await planModelOn(machine(gigabytes), request(name));
    expect(recommendation.method).toBe(method);
    expect(methods.find((plan) => plan.method === method)).toMatchObject({ fits: true });
    expect(recommendation.reasons.join('\n')).toMatch(method === 'lora' ? /several adapters/ : /largest model/);
  });

  test('the adapter, the checkpointing and the micro-batches that are asked for', async () => {
    const wanted = { lora: parseAdapterConfig({ r: 8, target_modules: ['q_proj', 'v_proj'] }, 'test'), gradient_checkpointing: true };
    const plan = (steps: number) =>
      planModelOn(machine(64), { ...request('qwen2.5-7b'), ...wanted, gradient_accumulation_steps: steps }, ['full', 'lora']);
    const [one, two, eight] = [await plan(1), await plan(2), await plan(8)];
    const [full, lora] = eight.methods;
    // 28 layers of 3584, whose values are 512 wide.
    expect(lora.trainable_parameters).toBe(28 * 8 * (3584 + 3584 + 3584 + 512));
    expect(lora.settings.gradient_checkpointing).toBe(true);
    expect(full.trainable_parameters).toBe(published['qwen2.5-7b']);
    expect(lora.operations_per_step).toBe(8 * one.methods[1].operations_per_step);
    expect(lora.peak_rss_bytes).toBe(two.methods[1].peak_rss_bytes);
  });

  test('where nothing fits it says what is least', async () => {
    const { recommendation } = await planModelOn(machine(1), request('llama-2-70b'));
    expect(recommendation.method).toBeNull();
    expect(recommendation.reasons[0]).toMatch(/the least of them needs \d+\.\d GB/);
  });

  test('settings go as far as the memory asks for', async () => {
    const settings = async (gigabytes: number) =>
      (await planModelOn(machine(gigabytes), request('llama-1-65b'), ['qlora'])).methods[0].settings;
    expect(await settings(80)).toEqual({ gradient_checkpointing: false, optimizer: 'adamw_torch', stream_base: false });
    expect(await settings(53)).toEqual({ gradient_checkpointing: true, optimizer: 'adamw_torch', stream_base: false });
    expect(await settings(46.5)).toEqual({ gradient_checkpointing: true, optimizer: 'paged_adamw_32bit', stream_base: false });
    expect(await settings(12)).toEqual({ gradient_checkpointing: true, optimizer: 'paged_adamw_32bit', stream_base: true });
  });
});

test.each([
  [
    { model_type: 'mamba' },
    /model_type "mamba" is not supported\n.*llama, mistral,.*\n.*schema of its config.json, its layer, .*docs\/add-a-model\.md/,
  ],
  [{ ...tinyConfig, hidden_size: -1 }, /hidden_size: .*>0/],
  [{ ...tinyConfig, vocab_size: 1e30 }, /vocab_size: /],
])('a config.json that says nothing sensible is refused: %j', (config, message) => {
  expect(() => countParameters(config, 'model')).toThrow(message);
});

test('every known shape can be planned', () => {
  for (const name of shapeNames()) expect(countParameters(knownShape(name)!, name)).toBeGreaterThan(5e7);
});
