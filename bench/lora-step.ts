/**
 * One measured LoRA loop of ours: prints one JSON line with the median seconds per optimizer step, tokens/s, peak RSS and, for the longest
 * ops, seconds. `--shape smol135 --dtype bf16 --batch 4 --length 512 [--checkpointing] [--supervised 0.5] [--steps 6] [--ops]`
 */
import { parseArgs } from 'node:util';
import { parseLoraConfig } from '#lowrank/adapters/config.js';
import { LoraAdapter } from '#lowrank/adapters/lora.js';
import { openCpuBackend } from '#lowrank/backends/cpu/index.js';
import { loadModel } from '#lowrank/models/load.js';
import { createTrainable, trainLoop } from '#lowrank/train/loop.js';
import type { LabelledTokens } from '#lowrank/train/step.js';
import { openSynthetic, syntheticModel } from './shapes.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'smol135' },
    dtype: { type: 'string', default: 'bf16' },
    batch: { type: 'string', default: '4' },
    length: { type: 'string', default: '512' },
    steps: { type: 'string', default: '6' },
    supervised: { type: 'string', default: '1' },
    threads: { type: 'string', default: '2' },
    checkpointing: { type: 'boolean', default: false },
    ops: { type: 'boolean', default: false },
  },
});
const [batch, length, steps, supervised] = [values.batch, values.length, values.steps, values.supervised].map(Number);
const precision = values.dtype === 'fp32' ? 'fp32' : 'bf16';

/** `batch` sequences end to end with random tokens; the last part of each is supervised. */
function randomBatch(vocabulary: number): LabelledTokens {
  const tokens = batch * length;
  let state = 12345;
  const next = () => (state = (state * 1103515245 + 12345) & 0x7fffffff) % vocabulary;
  const inputIds = Int32Array.from({ length: tokens }, next);
  const labels = inputIds.map((_, t) =>
    t % length === length - 1 || (t % length) + 1 < length * (1 - supervised) ? -100 : inputIds[t + 1],
  );
  const positions = inputIds.map((_, t) => t % length);
  const segments = Int32Array.from(
    Array.from({ length: batch }, (_, i) => [i * length, (i + 1) * length, i * length, (i + 1) * length]).flat(),
  );
  return { inputIds, labels, positions, segments };
}

const backend = await openCpuBackend({ threads: Number(values.threads) });
const source = await openSynthetic(await syntheticModel(values.shape, precision === 'bf16' ? 'BF16' : 'F32'), values.shape);
const { model } = await loadModel(source, backend, { precision });
const adapter = await LoraAdapter.create(model, parseLoraConfig({ r: 16, lora_alpha: 32, target_modules: 'all-linear' }, 'bench'), 1);
const options = {
  learning_rate: 1e-4,
  lr_scheduler: 'constant' as const,
  warmup_steps: 0,
  total_steps: steps,
  steps_per_epoch: steps,
  adam_beta1: 0.9,
  adam_beta2: 0.999,
  adam_epsilon: 1e-8,
  weight_decay: 0.01,
  max_grad_norm: 0,
  gradient_checkpointing: values.checkpointing,
  seed: 1,
};
const data = randomBatch(model.vocabulary);
const seconds: number[] = [];
const losses: number[] = [];
if (values.ops) backend.startProfile();
await trainLoop(createTrainable(model, adapter.parameters(), options), () => Array.from({ length: steps }, () => [data]), options, {
  onStep: (record) => {
    seconds.push(record.seconds);
    losses.push(record.loss);
  },
});
const ops: Record<string, number> = {};
if (values.ops) for (const { op, start, end } of await backend.takeProfile()) ops[op] = (ops[op] ?? 0) + (end - start) / 1000 / steps;
const sorted = seconds.slice(1).sort((a, b) => a - b);
const median = sorted[Math.floor(sorted.length / 2)];
const peak = backend.memory();
console.log(
  JSON.stringify({
    step_s: median,
    tokens_per_s: (batch * length) / median,
    peak_rss_gb: (process.resourceUsage().maxRSS * 1024) / 1e9,
    tensors_gb: peak.peak / 1e9,
    loss: losses.at(-1),
    ...(values.ops ? { ops: Object.fromEntries(Object.entries(ops).sort(([, a], [, b]) => b - a)) } : {}),
  }),
);
await backend.close();
