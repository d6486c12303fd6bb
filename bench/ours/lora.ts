/** One loop of ours, LoRA, QLoRA or full, a step for each request. The only argument is the case as JSON (bench/lora.ts). */
import { readFileSync } from 'node:fs';
import { FullTuner } from '#lowrank/adapters/full.js';
import { createAdapter, parseAdapterConfig } from '#lowrank/adapters/registry.js';
import { openCpuBackend } from '#lowrank/backends/cpu/index.js';
import { loadModel } from '#lowrank/models/load.js';
import { standardQuantization } from '#lowrank/models/quantize.js';
import { createOptimizer } from '#lowrank/optim/optimizer.js';
import type { LabelledTokens } from '#lowrank/train/batch.js';
import { trainStep } from '#lowrank/train/step.js';
import { serve } from '../contender.js';
import { peakRssGb } from '../machine.js';
import { modelFolder, openSynthetic, type Run, storedAs } from '../shapes.js';

const run = JSON.parse(process.argv[2]) as Run;
const precision = run.dtype === 'fp32' ? 'fp32' : 'bf16';
const backend = await openCpuBackend();
const runtime = process.memoryUsage.rss();
const source = await openSynthetic(modelFolder(run.shape, storedAs(run)), run.shape);
const full = run.method === 'full';
const quantization = run.method === 'qlora' ? standardQuantization : undefined;
const { model } = await loadModel(source, backend, { precision, trainable: full, quantization });
const rank = run.rank ?? 16;
const config = { r: rank, lora_alpha: 2 * rank, lora_dropout: run.dropout ?? 0, target_modules: 'all-linear' };
const tuner = full ? new FullTuner(model) : await createAdapter(model, parseAdapterConfig(config, 'bench'), 1);
const parameters = tuner.parameters();
const optimizer = createOptimizer('adamw_torch', parameters, {
  adam_beta1: 0.9,
  adam_beta2: 0.999,
  adam_epsilon: 1e-8,
  weight_decay: 0.01,
});
const options = { learning_rate: 1e-4, max_grad_norm: 0, gradient_checkpointing: run.checkpointing ?? false, seed: 1 };

/** Sequences end to end; the labels are shifted to the position that predicts them. */
function packed(sequences: { input_ids: number[]; labels: number[] }[]): LabelledTokens {
  const segments: number[] = [];
  let at = 0;
  for (const { input_ids } of sequences) {
    segments.push(at, at + input_ids.length, at, at + input_ids.length);
    at += input_ids.length;
  }
  return {
    inputIds: Int32Array.from(sequences.flatMap(({ input_ids }) => input_ids)),
    labels: Int32Array.from(sequences.flatMap(({ labels }) => [...labels.slice(1), -100])),
    positions: Int32Array.from(sequences.flatMap(({ input_ids }) => input_ids.map((_, i) => i))),
    segments: Int32Array.from(segments),
  };
}

/** Random tokens; the last part of each sequence is supervised. */
function randomSequences({ batch, length, supervised = 1 }: Run): { input_ids: number[]; labels: number[] }[] {
  let state = 12345;
  const next = () => (state = (state * 1103515245 + 12345) & 0x7fffffff) % model.vocabulary;
  return Array.from({ length: batch }, () => {
    const input_ids = Array.from({ length }, next);
    return { input_ids, labels: input_ids.map((id, i) => (i < Math.floor(length * (1 - supervised)) ? -100 : id)) };
  });
}

const batches = run.data
  ? (JSON.parse(readFileSync(run.data, 'utf8')) as { input_ids: number[]; labels: number[] }[][]).map(packed)
  : [packed(randomSequences(run))];

await serve(async ({ step, ops }: { step?: number; ops?: boolean }) => {
  if (step === undefined) return { peak_rss_gb: peakRssGb(), tensors_gb: backend.memory().peak / 1e9, runtime_gb: runtime / 1e9 };
  if (ops) backend.startProfile();
  const start = performance.now();
  const { loss } = await trainStep(tuner, optimizer, [batches[step % batches.length]], options);
  // The update is still on its way.
  await backend.sync();
  const seconds = (performance.now() - start) / 1000;
  if (!ops) return { seconds, loss };
  const times: Record<string, number> = {};
  for (const { op, start, end } of await backend.takeProfile()) times[op] = (times[op] ?? 0) + (end - start) / 1000;
  return { seconds, loss, ops: Object.fromEntries(Object.entries(times).sort(([, a], [, b]) => b - a)) };
});
await backend.close();
