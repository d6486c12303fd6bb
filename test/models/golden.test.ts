import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, describe, expect, test } from 'vitest';
import type { Adapter } from '../../src/adapters/adapter.js';
import { loadAdapter } from '../../src/adapters/folder.js';
import type { Backend } from '../../src/core/backend.js';
import { scope } from '../../src/core/scope.js';
import { Gradients } from '../../src/core/tape.js';
import { zeros } from '../../src/core/tensor.js';
import type { Checkpoint } from '../../src/io/checkpoint.js';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { loadModel } from '../../src/models/load.js';
import { withModelNames } from '../../src/models/names.js';
import type { LabelledTokens } from '../../src/train/batch.js';
import { createTrainable, type StepRecord, trainLoop } from '../../src/train/loop.js';
import { accumulateGradients } from '../../src/train/step.js';
import { openBest } from '../helpers/native.js';

const folder = 'test/golden/models';
const names = readdirSync(folder);
const json = (path: string) => JSON.parse(readFileSync(path, 'utf8'));

async function values(checkpoint: Checkpoint, name: string): Promise<Float32Array> {
  const bytes = await checkpoint.tensors.get(name)!.readAs('f32');
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

async function ints(checkpoint: Checkpoint, name: string): Promise<Int32Array> {
  const bytes = (await checkpoint.tensors.get(name)!.read()).slice();
  return new Int32Array(bytes.buffer);
}

/** The generator's examples packed end to end; labels moved to the position that predicts them. */
async function packed(golden: Checkpoint): Promise<LabelledTokens> {
  const [ids, labels, positions, segments]: number[][] = [[], [], [], []];
  for (let i = 0; golden.tensors.has(`ids.${i}`); i++) {
    const example = await ints(golden, `ids.${i}`);
    const start = ids.length;
    segments.push(start, start + example.length, start, start + example.length);
    ids.push(...example);
    labels.push(...(await ints(golden, `labels.${i}`)).subarray(1), -100);
    positions.push(...example.keys());
  }
  const [inputIds, shifted, places, table] = [ids, labels, positions, segments].map((list) => Int32Array.from(list));
  return { inputIds, labels: shifted, positions: places, segments: table };
}

/** ‖a − b‖∞ / ‖b‖∞ */
function distance(a: Float32Array, b: Float32Array): number {
  let [difference, size] = [0, 0];
  b.forEach((value, i) => {
    difference = Math.max(difference, Math.abs(a[i] - value));
    size = Math.max(size, Math.abs(value));
  });
  return difference / size;
}

describe.each(names)('%s', (name) => {
  const backends: Backend[] = [];
  const files: Checkpoint[] = [];
  afterAll(async () => {
    for (const file of files) await file.close();
    for (const backend of backends) await backend.close();
  });

  async function open(path: string): Promise<Checkpoint> {
    const file = await readSafetensors(await openFile(path));
    files.push(file);
    return file;
  }

  async function load() {
    const backend = await openBest();
    backends.push(backend);
    const golden = await open(`${folder}/${name}/golden.safetensors`);
    const checkpoint = await open(`${folder}/${name}/model.safetensors`);
    const source = {
      name,
      config: json(`${folder}/${name}/config.json`),
      checkpoint,
      identity: '',
      tokenizer: { tokenizerJson: {}, tokenizerConfig: {} },
    };
    const { model } = await loadModel(withModelNames(source), backend, { precision: 'fp32' });
    const attach = async () => {
      const directory = `${folder}/${name}/adapter`;
      return loadAdapter(model, json(`${directory}/adapter_config.json`), await open(`${directory}/adapter_model.safetensors`), directory);
    };
    return { backend, golden, model, attach, batch: await packed(golden) };
  }

  async function logitsMatch(golden: Checkpoint, kind: string, logits: Float32Array): Promise<void> {
    let at = 0;
    for (let i = 0; golden.tensors.has(`${kind}.${i}`); i++) {
      const expected = await values(golden, `${kind}.${i}`);
      expect(distance(logits.subarray(at, at + expected.length), expected)).toBeLessThan(1e-4);
      at += expected.length;
    }
    expect(at).toBe(logits.length);
  }

  test('logits equal transformers’, with the adapter PEFT’s', async () => {
    const { golden, model, attach, batch } = await load();
    const logits = () => scope(() => model.logits(model.hidden(batch))).toFloat32();
    await logitsMatch(golden, 'logits', await logits());
    const adapter = await attach();
    await logitsMatch(golden, 'adapted', await logits());
    adapter.detach();
    await logitsMatch(golden, 'logits', await logits());
  });

  test.each([false, true])('loss and every adapter gradient equal PEFT’s (recomputed %s)', async (recompute) => {
    const { backend, golden, model, attach, batch } = await load();
    const adapter: Adapter = await attach();
    const gradients = new Gradients();
    const lossSum = zeros(backend, [1], 'f32');
    const supervised = batch.labels.filter((label) => label >= 0).length;
    scope(() => accumulateGradients(model, batch, { recompute }, { scale: 1 / supervised, gradients, lossSum }));
    expect((await lossSum.toFloat32())[0]).toBeCloseTo(json(`${folder}/${name}/golden.json`).loss, 4);
    for (const [parameter, tensor] of adapter.parameters()) {
      const own = await gradients.get(tensor)!.toFloat32();
      const gradient = adapter.reordered.get(parameter)?.toFile(own) ?? own;
      // The generator has transformers' names in memory.
      const name = [...(model.aliases ?? [])].reduce((text, [path, alias]) => text.replace(`${path}.`, `${alias}.`), parameter);
      expect(distance(gradient, await values(golden, `gradient.${name}`)), parameter).toBeLessThan(1e-3);
    }
  });

  test('20 training steps follow PyTorch’s loss curve', async () => {
    const { attach, batch } = await load();
    const adapter = await attach();
    const curve: { loss: number; grad_norm: number }[] = json(`${folder}/${name}/golden.json`).curve;
    const options = {
      learning_rate: 1e-2,
      lr_scheduler: 'linear' as const,
      warmup_steps: 4,
      total_steps: 20,
      steps_per_epoch: 1,
      adam_beta1: 0.9,
      adam_beta2: 0.999,
      adam_epsilon: 1e-8,
      weight_decay: 0.01,
      max_grad_norm: 1,
      gradient_checkpointing: false,
      seed: 1,
    };
    const steps: StepRecord[] = [];
    const onStep = (record: StepRecord) => void steps.push(record);
    await trainLoop(createTrainable(adapter, options), () => [[batch]], options, { onStep });
    expect(steps).toHaveLength(20);
    for (const [i, step] of steps.entries()) {
      expect(Math.abs(step.loss - curve[i].loss) / curve[i].loss, `loss of step ${i}`).toBeLessThan(1e-3);
      expect(Math.abs(step.grad_norm - curve[i].grad_norm) / curve[i].grad_norm, `gradient norm of step ${i}`).toBeLessThan(3e-2);
    }
  });
});
