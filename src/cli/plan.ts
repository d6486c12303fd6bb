import { dirname } from 'node:path';
import { parseAdapterConfig } from '../adapters/registry.js';
import { CpuBackend } from '../backends/cpu/index.js';
import { openBackend } from '../core/device.js';
import { fullBatch } from '../plan/dry-run.js';
import { type MethodPlan, type Plan, type PlanMachine, type PlanMethod, type PlanRequest, planModelOn } from '../plan/plan.js';
import { measureRate } from '../plan/rate.js';
import { knownShape, unknownShape } from '../plan/shapes.js';
import { beside, nodeHost, openModelTexts, readRecipe } from '../runs/node.js';
import { loraConfigOf } from '../runs/recipe.js';
import { LowrankError } from '../util/errors.js';
import { bytes } from '../util/format.js';
import type { JsonObject } from '../util/json.js';
import { type Terminal, thousands } from './console.js';

export interface PlanOptions {
  json?: boolean;
  model?: string;
  method?: PlanMethod;
  rank?: number;
  sequenceLen?: number;
  microBatchSize?: number;
  memory?: number;
}

/** What products reach on this machine; undefined where only the reference backend runs. */
async function measuredRate(precision: 'bf16' | 'fp32'): Promise<number | undefined> {
  const backend = await openBackend().catch(() => undefined);
  try {
    return backend instanceof CpuBackend ? await measureRate(backend, precision === 'bf16' ? 'bf16' : 'f32') : undefined;
  } finally {
    await backend?.close();
  }
}

/** `lowrank plan RECIPE.yaml | --model NAME`: what training takes, for full fine-tuning, LoRA and QLoRA. */
export async function planCommand(
  terminal: Terminal,
  recipePath: string | undefined,
  overrides: string[],
  options: PlanOptions,
): Promise<void> {
  if ((recipePath === undefined) === (options.model === undefined))
    throw new LowrankError('one of a recipe and --model is wanted', {
      place: 'lowrank plan',
      mend: 'name a recipe, or --model llama-2-7b',
    });
  const recipe = recipePath === undefined ? undefined : await readRecipe(recipePath, overrides);
  const name = recipe?.base_model ?? options.model ?? '';
  const config = await findConfig(terminal, name, recipePath);
  const precision = recipe?.bf16 === false ? 'fp32' : 'bf16';
  const { memory, threads, resident: runtime } = nodeHost.machine();
  const machine: PlanMachine = { memory: options.memory ?? memory, threads, runtime, rate: await measuredRate(precision) };
  const batch = fullBatch(options.microBatchSize ?? recipe?.micro_batch_size ?? 1, options.sequenceLen ?? recipe?.sequence_len ?? 512);
  const { rank } = options;
  const lora = recipe
    ? loraConfigOf({ ...recipe, lora_r: rank ?? recipe.lora_r })
    : parseAdapterConfig({ r: rank ?? 16, target_modules: 'all-linear' }, '--rank');
  const request: PlanRequest = {
    name,
    config,
    precision,
    lora,
    batch,
    gradient_accumulation_steps: recipe?.gradient_accumulation_steps ?? 1,
    optimizer: recipe?.optimizer ?? 'adamw_torch',
    memoryLimit: recipe?.memory_limit && recipe.memory_limit * 1e9,
    gradient_checkpointing: recipe?.gradient_checkpointing,
  };
  const plan = await planModelOn(machine, request, options.method && [options.method]);
  terminal.result(plan, describe(plan));
}

async function findConfig(terminal: Terminal, name: string, recipePath?: string): Promise<JsonObject> {
  const known = knownShape(name);
  if (known) return known;
  try {
    const near = recipePath === undefined ? name : (beside(name, dirname(recipePath)) ?? name);
    const { config } = await openModelTexts(near, {
      onProgress: ({ file, done, total }) => terminal.bar(total === 0 ? 1 : done / total, `${file}  ${bytes(done)} of ${bytes(total)}`),
    });
    return config;
  } catch (error) {
    throw recipePath === undefined ? unknownShape(name, error) : error;
  } finally {
    terminal.clearBar();
  }
}

const rows: readonly [string, (plan: MethodPlan) => number][] = [
  ['weights', ({ bytes }) => bytes.weights],
  ['quantisation', ({ bytes }) => bytes.quantization_constants],
  ['adapters', ({ bytes }) => bytes.adapters],
  ['gradients', ({ bytes }) => bytes.gradients],
  ['optimizer', ({ bytes }) => bytes.optimizer],
  ['activations', ({ bytes }) => bytes.activations],
  ['logits', ({ bytes }) => bytes.logits],
  ['workspace', ({ bytes }) => bytes.workspace],
  ['runtime', ({ bytes }) => bytes.runtime],
];

function describe(plan: Plan): string {
  const { methods, recommendation, parameters, memory_bytes, micro_batch_tokens } = plan;
  const full = plan.arithmetic.full_16_bit;
  const line = (label: string, cells: string[]) => label.padEnd(18) + cells.map((cell) => cell.padStart(20)).join('');
  const each = (label: string, cell: (method: MethodPlan) => string) => line(label, methods.map(cell));
  const settings = ({ settings: { gradient_checkpointing, optimizer, stream_base } }: MethodPlan) =>
    [gradient_checkpointing && 'ckpt', optimizer.startsWith('paged') && 'paged', stream_base && 'streamed'].filter(Boolean).join(' ') ||
    'plain';
  return [
    `${plan.model}: ${thousands(parameters)} parameters, ${thousands(micro_batch_tokens)} tokens in a micro-batch, ${bytes(memory_bytes)} of memory`,
    '',
    line(
      '',
      methods.map(({ method }) => method),
    ),
    each('settings', settings),
    each('trainable', ({ trainable_parameters }) => thousands(trainable_parameters)),
    ...rows.map(([label, of]) => each(label, (method) => (of(method) === 0 ? '–' : bytes(of(method))))),
    each('peak of the process', ({ peak_rss_bytes }) => bytes(peak_rss_bytes)),
    each('fits', ({ fits }) => (fits ? 'yes' : 'no')),
    ...(methods.some(({ seconds_per_step }) => seconds_per_step)
      ? [each('seconds a step', ({ seconds_per_step }) => (seconds_per_step === undefined ? '–' : seconds_per_step.toPrecision(3)))]
      : []),
    '',
    `in 16 bits throughout, full fine-tuning holds weights ${bytes(full.weights)}, gradients ${bytes(full.gradients)}, Adam ${bytes(full.adam)}`,
    recommendation.method ? `recommended: ${recommendation.method}` : 'none of them fits',
    ...recommendation.reasons.map((reason) => `  ${reason}`),
  ].join('\n');
}

/** One line of where the memory will go. */
export function describeRun({ peak_rss_bytes, bytes: parts }: MethodPlan): string {
  const named = rows.map(([label]) => label);
  const sizes = [parts.weights, parts.quantization_constants, parts.adapters, parts.gradients, parts.optimizer, parts.activations];
  const shown = sizes.map((size, i) => [named[i], size] as const).filter(([, size]) => size >= 0.02 * peak_rss_bytes);
  return `${bytes(peak_rss_bytes)} peak: ${shown.map(([label, size]) => `${label} ${bytes(size)}`).join(', ')}`;
}
