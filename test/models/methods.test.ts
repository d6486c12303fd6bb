import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { FullTuner } from '../../src/adapters/full.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import type { Tuner } from '../../src/adapters/tuner.js';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { allFamilies } from '../../src/models/families.js';
import { type LoadOptions, loadModel } from '../../src/models/load.js';
import { withModelNames } from '../../src/models/names.js';
import { standardQuantization } from '../../src/models/quantize.js';
import type { CausalLM } from '../../src/nn/model.js';
import { createOptimizer } from '../../src/optim/optimizer.js';
import { fullBatch } from '../../src/plan/dry-run.js';
import { type PlanMethod, planMethods, planModelOn } from '../../src/plan/plan.js';
import { trainStep } from '../../src/train/step.js';
import { openBest } from '../helpers/native.js';

const goldens = 'test/golden/models';
const configOf = (name: string) => JSON.parse(readFileSync(`${goldens}/${name}/config.json`, 'utf8'));
/** A golden of each family. */
const names = new Map(
  readdirSync(goldens)
    .reverse()
    .map((name) => [configOf(name).model_type as string, name]),
);
const lora = parseAdapterConfig({ r: 2, target_modules: 'all-linear' }, 'test');
const ids = [7, 1, 80, 2, 9, 3, 44];
const batch = {
  inputIds: Int32Array.from(ids),
  labels: Int32Array.of(...ids.slice(1), -100),
  positions: Int32Array.from(ids.keys()),
  segments: Int32Array.of(0, ids.length, 0, ids.length),
};
const machine = { memory: 24e9, threads: 2, runtime: 1e8 };

async function planned(config: Record<string, unknown>, method: PlanMethod): Promise<number> {
  const work = { batch: fullBatch(1, 8), gradient_accumulation_steps: 1, optimizer: 'adamw_torch' as const };
  const { methods } = await planModelOn(machine, { name: 'm', config: config as never, precision: 'fp32', lora, ...work }, [method]);
  return methods[0].trainable_parameters;
}

const optionsOf: Readonly<Record<PlanMethod, LoadOptions>> = {
  lora: { precision: 'fp32' },
  qlora: { precision: 'fp32', quantization: standardQuantization },
  full: { precision: 'fp32', trainable: true },
};

const tunerOf = (method: PlanMethod, model: CausalLM): Tuner | Promise<Tuner> =>
  method === 'full' ? new FullTuner(model) : createAdapter(model, lora, 1);

/** Loads a golden as a method has it, trains one step; resolves to how many numbers are trained. Its config.json may be another. */
async function trained(name: string, method: PlanMethod, config: Record<string, unknown> = configOf(name)): Promise<number> {
  const backend = await openBest();
  const checkpoint = await readSafetensors(await openFile(`${goldens}/${name}/model.safetensors`));
  try {
    const tokenizer = { tokenizerJson: {}, tokenizerConfig: {} };
    const source = withModelNames({ name: 'm', config: config as never, checkpoint, identity: '', tokenizer });
    const { model } = await loadModel(source, backend, optionsOf[method]);
    const tuner = await tunerOf(method, model);
    const adam = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0 };
    const optimizer = createOptimizer('adamw_torch', tuner.parameters(), adam);
    const step = { learning_rate: 3e-3, max_grad_norm: 1, seed: 1, gradient_checkpointing: false };
    const losses = [];
    for (let i = 0; i < 3; i++) losses.push((await trainStep(tuner, optimizer, [batch], step)).loss);
    expect(losses[2]).toBeLessThan(losses[0]);
    return [...tuner.parameters().values()].reduce((sum, { size }) => sum + size, 0);
  } finally {
    await checkpoint.close();
    await backend.close();
  }
}

const errorOf = (attempt: Promise<unknown>) =>
  attempt.then(
    () => 'no error',
    (error: Error) => error.message,
  );

test('every family has a golden', () => {
  expect(allFamilies().flatMap(({ modelType }) => (names.has(modelType) ? [] : [modelType]))).toEqual([]);
});

test.each([...names].flatMap(([type, name]) => planMethods.map((method) => [type, method, name] as const)))(
  '%s by %s: trains the parameters that are planned',
  async (_, method, name) => {
    expect(await trained(name, method)).toBe(await planned(configOf(name), method));
  },
);

test.each<[string, Record<string, unknown>, RegExp]>([
  ['an unknown architecture', { model_type: 'mamba' }, /model_type "mamba" is not supported/],
  ['an activation that the family does not have', { hidden_act: 'relu' }, /hidden_act: /],
  ['sizes that do not fit', { num_key_value_heads: 4 }, /num_attention_heads must be a multiple/],
  ['a rope that nobody computes', { rope_parameters: { rope_type: 'spiral', rope_theta: 1 } }, /rope_parameters/],
])('%s is refused alike, whatever the method', async (_, changes, message) => {
  const config = { ...configOf('qwen2'), ...changes };
  for (const method of planMethods) {
    const refusal = await errorOf(planned(config, method));
    expect(refusal).toMatch(message);
    expect(await errorOf(trained('qwen2', method, config))).toBe(refusal);
  }
});
