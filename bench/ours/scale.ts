/**
 * One optimizer step of a large shape, batch 1: QLoRA of rank 64 on all linear layers, checkpointed, paged AdamW. The argument is a
 * ScaleRun as JSON; prints one line of JSON.
 */
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { createAdapter, parseAdapterConfig } from '#lowrank/adapters/registry.js';
import { openCpuBackend } from '#lowrank/backends/cpu/index.js';
import { Gradients } from '#lowrank/core/tape.js';
import { zeros } from '#lowrank/core/tensor.js';
import { loadModel } from '#lowrank/models/load.js';
import { standardQuantization } from '#lowrank/models/quantize.js';
import { createOptimizer } from '#lowrank/optim/optimizer.js';
import { accumulateGradients } from '#lowrank/train/step.js';
import { peakRssGb } from '../machine.js';
import { openSynthetic } from '../shapes.js';

export interface ScaleRun {
  shape: string;
  folder: string;
  stream: boolean;
  length: number;
  rank: number;
}

export interface ScaleResult {
  load_seconds: number;
  load_peak_rss_gb: number;
  quantized_gb: number;
  step_seconds: number;
  peak_rss_gb: number;
  streamed_gb: number;
  read_gb: number;
  loss: number;
  adapters: number;
  zero_gradients: number;
}

/** Bytes that the process has had from the disk. */
const diskBytes = () => Number(/read_bytes: (\d+)/.exec(readFileSync('/proc/self/io', 'utf8'))?.[1]);

const run = JSON.parse(process.argv[2]) as ScaleRun;
const backend = await openCpuBackend();
const begun = performance.now();
const source = await openSynthetic(run.folder, run.shape);
const { model } = await loadModel(source, backend, { precision: 'bf16', quantization: standardQuantization, stream: run.stream });
const { weights, constants } = backend.memory().currentOf;
const loaded = { seconds: (performance.now() - begun) / 1000, peak: peakRssGb() };
// Both matrices random, so that every gradient should differ from zero.
const config = { r: run.rank, lora_alpha: 16, target_modules: 'all-linear', init_lora_weights: false };
const adapter = await createAdapter(model, parseAdapterConfig(config, 'bench'), 1);
const parameters = adapter.parameters();
const paging = { folder: process.env.TMPDIR ?? tmpdir(), limit: 0 };
const settings = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0, paging };
const optimizer = createOptimizer('paged_adamw_32bit', parameters, settings);
let state = 12345;
const inputIds = Int32Array.from({ length: run.length }, () => (state = (state * 1103515245 + 12345) & 0x7fffffff) % model.vocabulary);
const batch = {
  inputIds,
  labels: Int32Array.from(inputIds, (_, i) => inputIds[i + 1] ?? -100),
  positions: Int32Array.from(inputIds.keys()),
  segments: Int32Array.of(0, run.length, 0, run.length),
};
const read = diskBytes();
const start = performance.now();
const gradients = new Gradients();
const lossSum = zeros(backend, [1], 'f32', 'workspace');
accumulateGradients(model, batch, { recompute: true }, { scale: 1 / (run.length - 1), gradients, lossSum });
const [loss] = await lossSum.toFloat32();
let zeroGradients = 0;
for (const parameter of parameters.values()) {
  const square = zeros(backend, [1], 'f32', 'workspace');
  const gradient = gradients.get(parameter);
  if (gradient) backend.run('sumSquares', { x: gradient }, { out: square }, {});
  const [sum] = await square.toFloat32();
  if (!(sum > 0 && Number.isFinite(sum))) zeroGradients++;
  square.dispose();
}
optimizer.step(gradients, 1e-4, 1);
await backend.sync();
const result: ScaleResult = {
  load_seconds: loaded.seconds,
  load_peak_rss_gb: loaded.peak,
  quantized_gb: (weights + constants) / 1e9,
  step_seconds: (performance.now() - start) / 1000,
  peak_rss_gb: peakRssGb(),
  streamed_gb: (model.stream?.bytesRead ?? 0) / 1e9,
  read_gb: (diskBytes() - read) / 1e9,
  loss,
  adapters: parameters.size,
  zero_gradients: zeroGradients,
};
console.log(JSON.stringify(result));
await backend.close();
