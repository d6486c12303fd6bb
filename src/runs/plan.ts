import type { Batch } from '../data/batches.js';
import type { ModelSource } from '../io/model-source.js';
import { isUsableInPlace } from '../models/load.js';
import { isQuantizable, type QuantizationConfig } from '../models/quantize.js';
import { likeMany } from '../plan/dry-run.js';
import { type MethodPlan, type PlannedWork, planStep } from '../plan/plan.js';
import { countSteps, type RunData, trainingBatches } from './data.js';
import type { Machine } from './host.js';
import { loadOptionsOf, loraConfigOf, type Recipe, streamingOf } from './recipe.js';
import { wantsStreaming } from './streaming.js';

/** The largest micro-batch of an epoch, which the memory depends on, and what all of the run has to do. */
export function workOfRun(recipe: Recipe, data: RunData): { largest: Batch; run: PlannedWork } {
  const batches = trainingBatches(recipe, data, 0).flat();
  const largest = batches.reduce((most, batch) => (batch.inputIds.length > most.inputIds.length ? batch : most));
  const ofEpoch = batches.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
  const mean = ofEpoch / batches.length;
  const off = ({ inputIds }: Batch) => Math.abs(inputIds.length - mean);
  const typical = batches.reduce((best, batch) => (off(batch) < off(best) ? batch : best));
  const { steps_per_epoch, total_steps: steps } = countSteps(recipe, data);
  const epochs = steps / steps_per_epoch;
  const run = { steps, micro_batches: Math.round(epochs * batches.length), tokens: Math.round(epochs * ofEpoch), typical };
  return { largest, run };
}

/** What a recipe's run will take on a machine: its own settings, on its largest micro-batch. */
export async function planRun(recipe: Recipe, source: ModelSource, data: RunData, machine: Machine): Promise<MethodPlan> {
  const { precision, quantization } = loadOptionsOf(recipe);
  const { largest } = workOfRun(recipe, data);
  const stored = [...source.checkpoint.tensors.values()];
  const found = stored.find(({ quantized }) => quantized);
  const existing =
    found && ({ kind: found.dtype.toLowerCase(), blockSize: 64, double: found.quantized?.absmax.dtype === 'U8' } as QuantizationConfig);
  const method = recipe.adapter === 'full' ? 'full' : quantization || existing ? 'qlora' : 'lora';
  const streaming = streamingOf(recipe);
  const step = {
    name: source.name,
    config: source.config,
    precision,
    lora: recipe.adapter === 'full' ? undefined : loraConfigOf(recipe),
    quantization: existing ?? quantization,
    stream: streaming !== undefined && wantsStreaming(source, streaming, { precision, quantization }, machine.free),
    mapped: stored.some((tensor) => isQuantizable(tensor) && isUsableInPlace(tensor, precision === 'bf16' ? 'bf16' : 'f32')),
    optimizer: recipe.optimizer,
    memoryLimit: recipe.memory_limit && recipe.memory_limit * 1e9,
    gradient_checkpointing: recipe.gradient_checkpointing,
    batches: likeMany(largest, recipe.gradient_accumulation_steps),
  };
  const { memory, threads, resident: runtime } = machine;
  return planStep(step, method, { memory, threads, runtime });
}
