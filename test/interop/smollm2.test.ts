import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openAdapter, saveAdapter } from '../../src/adapters/folder.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { openCpuBackend } from '../../src/backends/cpu/index.js';
import { scope } from '../../src/core/scope.js';
import { Gradients } from '../../src/core/tape.js';
import { zeros } from '../../src/core/tensor.js';
import { type Batch, concatenate } from '../../src/data/batches.js';
import { type Example, prepareExamples } from '../../src/data/prepare.js';
import { readRows } from '../../src/data/rows.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { localFolder } from '../../src/io/node/folder.js';
import { loadModel } from '../../src/models/load.js';
import { openTextCodec } from '../../src/models/text-model.js';
import { openModel } from '../../src/runs/node.js';
import { createTrainable, trainLoop } from '../../src/train/loop.js';
import { accumulateGradients } from '../../src/train/step.js';
import { Random } from '../../src/util/philox.js';
import { askPeers, distance, json, logitsOf, peersFolder, realModel, relativeError, temporaryFolder, tensorsOf } from './peers.js';

const steps = 20;
const learningRate = 2e-4;
const conversations = [
  ['What is the capital of France?', 'Paris.'],
  ['Two large oat lattes and a croissant, please!', '{"items":[{"name":"oat latte","quantity":2},{"name":"croissant","quantity":1}]}'],
  ['Schreib „Grüße“ rückwärts 🙂', 'eßürG'],
];
const folder = temporaryFolder();
const out = join(folder.path, 'real.safetensors');
let source: ModelSource;
let batch: Batch;
const backends: { close(): Promise<void> }[] = [];

/** The model with the adapter that both sides begin with. */
async function open(precision: 'fp32' | 'bf16') {
  const backend = await openCpuBackend({ threads: 2 });
  backends.push(backend);
  const { model } = await loadModel(source, backend, { precision });
  const attach = async () => (await openAdapter(localFolder(join(folder.path, 'adapter')), model)).adapter;
  return { backend, model, attach };
}

beforeAll(async () => {
  source = await openModel(join(peersFolder, realModel));
  const { tokenizer, template } = openTextCodec(source);
  const rows = conversations.map(([user, assistant]) =>
    JSON.stringify({
      messages: [
        { role: 'user', content: user },
        { role: 'assistant', content: assistant },
      ],
    }),
  );
  const { examples } = await prepareExamples(await readRows(rows.join('\n'), 'rows.jsonl'), tokenizer, template, { sequence_len: 256 });
  batch = concatenate(examples);
  const { backend, model } = await open('fp32');
  const adapter = await createAdapter(model, parseAdapterConfig({ r: 16, lora_alpha: 32, target_modules: 'all-linear' }, 'test'), 1);
  const random = new Random(2, 1);
  for (const [name, tensor] of adapter.parameters()) {
    if (name.includes('lora_B'))
      tensor.write(new Uint8Array(Float32Array.from({ length: tensor.size }, () => 0.01 * random.normal()).buffer));
  }
  await saveAdapter(localFolder(join(folder.path, 'adapter')), adapter, 'SmolLM2');
  await backend.close();
  backends.pop();
  await askPeers(folder.path, [
    {
      do: 'train_real_model',
      folder: peersFolder,
      file: realModel,
      adapter: join(folder.path, 'adapter'),
      batch: { ids: examples.map(({ sequences: [{ inputIds }] }) => [...inputIds]), labels: examples.map(shifted) },
      out,
      steps,
      learning_rate: learningRate,
    },
  ]);
});
afterAll(async () => {
  for (const backend of backends) await backend.close();
  await source.checkpoint.close();
  folder.remove();
});

/** The label of what each position predicts. */
function shifted({ sequences: [{ labels }] }: Example): number[] {
  return [...labels.subarray(1), -100];
}

async function gradientsOf(precision: 'fp32' | 'bf16'): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
  const { backend, model, attach } = await open(precision);
  const adapter = await attach();
  const sums = new Gradients();
  const lossSum = zeros(backend, [1], 'f32');
  scope(() => accumulateGradients(model, batch, {}, { scale: 1 / batch.supervised, gradients: sums, lossSum }));
  const gradients = new Map<string, Float32Array>();
  for (const [name, tensor] of adapter.parameters()) gradients.set(name, await sums.get(tensor)!.toFloat32());
  return { loss: (await lossSum.toFloat32())[0], gradients };
}

describe('SmolLM2-135M-Instruct out of its GGUF file', () => {
  test('logits in f32 within 1e-4', async () => {
    const { model } = await open('fp32');
    const expected = await tensorsOf(out);
    for (let i = 0; i < conversations.length; i++) {
      const [start, end] = batch.segments.subarray(4 * i);
      expect(distance(await logitsOf(model, [...batch.inputIds.subarray(start, end)]), expected.get(`logits.${i}`)!)).toBeLessThan(1e-4);
    }
  });

  test('loss and every adapter gradient in f32 within 1e-3', async () => {
    const { loss, gradients } = await gradientsOf('fp32');
    const expected = await tensorsOf(out);
    const { losses } = json(out.replace('.safetensors', '.json'));
    expect(Math.abs(loss / losses.f32 - 1)).toBeLessThan(1e-4);
    expect(gradients.size).toBe(30 * 7 * 2);
    for (const [name, gradient] of gradients) expect(distance(gradient, expected.get(`f32.${name}`)!), name).toBeLessThan(1e-3);
  });

  /*
   * bf16 has 8 bits of mantissa: each rounding of an activation is off by up to 2⁻⁹, and thirty layers add such errors up. The measure is
   * PyTorch's own error in bf16, against its f32 gradients. A single tensor's is luck: it hangs on how a few huge activations of the first
   * token fall, and PyTorch's own grows up to 2.1 times itself when its embeddings are moved by about an ulp. So no error may be three
   * times PyTorch's, all of ours together must be smaller, and rank by rank, from the best tensor to the worst but for one in a hundred,
   * ours may be a fifth larger: PyTorch's errors change with the processor's instructions; ours were 0.72 to 1.13 of them, rank by rank,
   * where their sum was 0.9.
   */
  test('loss and every adapter gradient in bf16 as near to f32 as PyTorch’s', async () => {
    const { loss, gradients } = await gradientsOf('bf16');
    const expected = await tensorsOf(out);
    const { losses } = json(out.replace('.safetensors', '.json'));
    expect(Math.abs(loss / losses.f32 - 1)).toBeLessThan(0.01);
    const [ours, theirs]: number[][] = [[], []];
    for (const [name, gradient] of gradients) {
      const exact = expected.get(`f32.${name}`)!;
      const [error, peer] = [relativeError(gradient, exact), relativeError(expected.get(`bf16.${name}`)!, exact)];
      expect(error, `${name}: PyTorch ${peer}`).toBeLessThan(3 * peer + 0.01);
      ours.push(error);
      theirs.push(peer);
    }
    for (const errors of [ours, theirs]) errors.sort((a, b) => a - b);
    const sum = (errors: readonly number[]) => errors.reduce((total, error) => total + error, 0);
    expect(sum(ours)).toBeLessThan(sum(theirs));
    for (let rank = 0; rank < 0.99 * ours.length; rank++) expect(ours[rank], `rank ${rank}`).toBeLessThan(1.2 * theirs[rank]);
  });

  test(`a loss curve of ${steps} steps in f32 within 1e-3 at each`, async () => {
    const { attach } = await open('fp32');
    const adapter = await attach();
    const options = {
      learning_rate: learningRate,
      lr_scheduler: 'constant' as const,
      warmup_steps: 0,
      total_steps: steps,
      steps_per_epoch: 1,
      adam_beta1: 0.9,
      adam_beta2: 0.999,
      adam_epsilon: 1e-8,
      weight_decay: 0,
      max_grad_norm: 1,
      gradient_checkpointing: false,
      seed: 1,
    };
    const losses: number[] = [];
    const onStep = ({ loss }: { loss: number }) => void losses.push(loss);
    await trainLoop(createTrainable(adapter, options), () => [[batch]], options, { onStep });
    const { curve } = json(out.replace('.safetensors', '.json'));
    expect(losses).toHaveLength(steps);
    losses.forEach((loss, step) => {
      expect(Math.abs(loss - curve[step]) / curve[step], `step ${step}: ${loss}, PyTorch ${curve[step]}`).toBeLessThan(1e-3);
    });
    expect(losses[steps - 1]).toBeLessThan(0.5 * losses[0]);
  });
});
