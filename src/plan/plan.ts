import type { AdapterConfig } from '../adapters/adapter.js';
import type { MemoryCategory } from '../core/backend.js';
import { type QuantizationConfig, standardQuantization } from '../models/quantize.js';
import type { OptimizerName } from '../optim/optimizer.js';
import type { LabelledTokens } from '../train/batch.js';
import type { JsonObject } from '../util/json.js';
import { countOfToken, dryRun, likeMany, type StepToPlan } from './dry-run.js';

export const planMethods = ['full', 'lora', 'qlora'] as const;
export type PlanMethod = (typeof planMethods)[number];

/** The machine that a plan is for. */
export interface PlanMachine {
  /** Bytes that the process may hold. */
  memory: number;
  threads: number;
  /** Floating-point operations in a second that a product of a linear layer reaches, where they were measured. */
  rate?: number;
  /** Bytes that the process holds before it loads a model. */
  runtime: number;
}

export interface PlanRequest {
  /** For messages. */
  name: string;
  config: JsonObject;
  precision: 'bf16' | 'fp32';
  /** The adapter of LoRA and QLoRA. */
  lora: AdapterConfig;
  /** A micro-batch, and how many of its kind a step has. */
  batch: LabelledTokens;
  gradient_accumulation_steps: number;
  optimizer: OptimizerName;
  /** Bytes above which paged optimizers put their states on the disk. */
  memoryLimit?: number;
  /** The whole run, where its data are known; else time is that of `batch`. */
  run?: PlannedWork;
  /** As it is to be even where the memory would do without; `false` where absent. */
  gradient_checkpointing?: PlanSettings['gradient_checkpointing'];
}

/** How much a run has to do. */
export interface PlannedWork {
  steps: number;
  micro_batches: number;
  tokens: number;
  /** A micro-batch of about the mean length. */
  typical: LabelledTokens;
}

/** Seconds, from and to: what a machine reaches moves by two with what else it does. */
export type TimeRange = readonly [least: number, most: number];

/** What saves memory, at a price in time. */
export interface PlanSettings {
  gradient_checkpointing: boolean | 'offload_disk';
  optimizer: OptimizerName;
  stream_base: boolean;
}

/** Bytes of each category at its own largest; `runtime` is the process without a model. */
export type PlanBytes = Record<Exclude<MemoryCategory, 'constants'> | 'quantization_constants' | 'runtime', number>;

export interface MethodPlan {
  method: PlanMethod;
  trainable_parameters: number;
  trainable_percent: number;
  bytes: PlanBytes;
  /** The most that the process holds at one time. Less than the sum: categories peak at different times, and files leave the memory. */
  peak_rss_bytes: number;
  fits: boolean;
  settings: PlanSettings;
  operations_per_step: number;
  seconds_per_step?: TimeRange;
  tokens_per_second?: TimeRange;
  /** Of the whole run without its evaluations and checkpoints, where the data are known. */
  run?: { steps: number; tokens: number; seconds?: TimeRange };
}

/**
 * What the process grows by besides tensors while it trains: compiled code, JavaScript's heap, what waits for its collector. Measured: 22
 * to 30 MB.
 */
const growth = 28e6;

/** The share of a product's rate that whole steps reach, roughly. */
const share = 0.75;

/** What an op costs besides its arithmetic, in seconds: it is queued and its threads are woken. Small models feel nothing else. */
const opSeconds = 8e-6;

/** The time of so much work, twice as long at its most as at its least. */
function timeOf(operations: number, ops: number, rate: number | undefined): TimeRange | undefined {
  if (rate === undefined) return undefined;
  const seconds = operations / (share * rate) + ops * opSeconds;
  return [seconds / Math.SQRT2, seconds * Math.SQRT2];
}

/** The memory and time of one way to train; `microBatches` are in a step where it does not name them all. */
export async function planStep(
  step: Omit<StepToPlan, 'threads'>,
  method: PlanMethod,
  machine: PlanMachine,
  microBatches = step.batches.length,
): Promise<MethodPlan> {
  const { memory, resident, trainable, all, ...run } = await dryRun({ ...step, threads: machine.threads });
  const times = microBatches / step.batches.length;
  const operations = times * run.operations;
  const { constants, ...rest } = memory.peakOf;
  const runtime = machine.runtime + growth;
  const peak = runtime + resident;
  const seconds = timeOf(operations, times * run.ops, machine.rate);
  const tokens = times * step.batches.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
  return {
    method,
    trainable_parameters: trainable,
    trainable_percent: (100 * trainable) / all,
    bytes: { ...rest, quantization_constants: constants, runtime },
    peak_rss_bytes: Math.round(peak),
    fits: peak <= machine.memory,
    settings: { gradient_checkpointing: step.gradient_checkpointing, optimizer: step.optimizer, stream_base: step.stream },
    operations_per_step: operations,
    seconds_per_step: seconds,
    tokens_per_second: seconds && [tokens / seconds[1], tokens / seconds[0]],
  };
}

/** Settings from what is asked for to those that need the least memory. */
function ladder(method: PlanMethod, { optimizer, gradient_checkpointing = false }: PlanRequest): PlanSettings[] {
  const paged: OptimizerName = optimizer.startsWith('adamw') ? 'paged_adamw_32bit' : optimizer;
  const checkpointed = gradient_checkpointing || true;
  const steps: PlanSettings[] = [
    ...(gradient_checkpointing ? [] : [{ gradient_checkpointing, optimizer, stream_base: false }]),
    { gradient_checkpointing: checkpointed, optimizer, stream_base: false },
    { gradient_checkpointing: checkpointed, optimizer: paged, stream_base: false },
  ];
  if (method === 'full') return steps;
  return [...steps, { gradient_checkpointing: checkpointed, optimizer: paged, stream_base: true }];
}

/** A method with the first settings that fit, or with the last ones. */
async function planMethod(method: PlanMethod, request: PlanRequest, parameters: number, machine: PlanMachine): Promise<MethodPlan> {
  const { precision, batch, gradient_accumulation_steps, optimizer } = request;
  const batches = likeMany(batch, gradient_accumulation_steps);
  const lora = method === 'full' ? undefined : request.lora;
  const quantization: QuantizationConfig | undefined = method === 'qlora' ? standardQuantization : undefined;
  let planned: { plan: MethodPlan; step: Omit<StepToPlan, 'batches' | 'threads'> } | undefined;
  for (const settings of ladder(method, request)) {
    const { gradient_checkpointing, stream_base: stream } = settings;
    // Paged because of the memory: the states leave it after every update.
    const memoryLimit = settings.optimizer === optimizer ? request.memoryLimit : 0;
    const forms = { precision, lora, quantization, stream, mapped: true, gradient_checkpointing };
    const step = { name: request.name, config: request.config, ...forms, optimizer: settings.optimizer, memoryLimit };
    planned = { step, plan: await planStep({ ...step, batches }, method, machine, gradient_accumulation_steps) };
    if (planned.plan.fits) break;
  }
  const { plan, step } = planned!;
  const work = request.run && (await workOf(step, request.run, machine));
  // Other families are built as a Llama, but counted exactly.
  return { ...plan, ...work, ...(method === 'full' ? { trainable_parameters: parameters } : {}) };
}

/** The time of a run and of its mean step. */
async function workOf(
  step: Omit<StepToPlan, 'batches' | 'threads'>,
  { steps, micro_batches, tokens, typical }: PlannedWork,
  machine: PlanMachine,
) {
  const { operations, ops } = await dryRun({ ...step, batches: [typical], threads: machine.threads });
  const seconds = timeOf(micro_batches * operations, micro_batches * ops, machine.rate);
  return {
    run: { steps, tokens, seconds },
    seconds_per_step: seconds && ([seconds[0] / steps, seconds[1] / steps] as const),
    tokens_per_second: seconds && ([tokens / seconds[1], tokens / seconds[0]] as const),
  };
}

/** What training a model takes by each method, with a recommendation. Sizes in bytes. */
export interface Plan {
  model: string;
  parameters: number;
  /** Those that compute for a token: fewer where there are experts. */
  active_parameters: number;
  memory_bytes: number;
  micro_batch_tokens: number;
  gradient_accumulation_steps: number;
  methods: MethodPlan[];
  recommendation: { method: PlanMethod | null; reasons: string[] };
  arithmetic: ReturnType<typeof quotedArithmetic>;
}

/** Full fine-tuning, LoRA and QLoRA side by side on one machine. */
export async function planModelOn(machine: PlanMachine, request: PlanRequest, methods: readonly PlanMethod[] = planMethods): Promise<Plan> {
  const { all: parameters, active } = countOfToken(request.config, request.name);
  const plans: MethodPlan[] = [];
  for (const method of methods) plans.push(await planMethod(method, request, parameters, machine));
  return {
    model: request.name,
    parameters,
    active_parameters: active,
    memory_bytes: machine.memory,
    micro_batch_tokens: request.batch.inputIds.length,
    gradient_accumulation_steps: request.gradient_accumulation_steps,
    methods: plans,
    recommendation: recommend(plans),
    arithmetic: quotedArithmetic(request.name, parameters),
  };
}

/**
 * The arithmetic that everyone quotes, in bytes: full fine-tuning with weights, gradients and Adam's two states in 16 bits; and what rank 8
 * on a 4096 × 4096 matrix trains (Hu et al. 2021, §4.1).
 */
export function quotedArithmetic(name: string, parameters: number, rank = 8, [outputs, inputs] = [4096, 4096]) {
  const trained = rank * (outputs + inputs);
  const full = (count: number) => ({ weights: 2 * count, gradients: 2 * count, adam: 4 * count, sum: 8 * count });
  const billions = /(?:^|[^a-z\d.])(\d+(?:\.\d+)?)b(?![a-z\d])/i.exec(name)?.[1];
  return {
    full_16_bit: full(parameters),
    /** The same for the round number in the name. */
    full_16_bit_nominal: billions === undefined ? undefined : full(1e9 * Number(billions)),
    low_rank: {
      rank,
      matrix: [outputs, inputs],
      parameters: outputs * inputs,
      trained,
      percent_fewer: Math.round(1000 * (1 - trained / (outputs * inputs))) / 10,
    },
  };
}

const advantages: Readonly<Record<PlanMethod, string>> = {
  full: 'full: for abundant compute and the last bit of quality, a very different domain, continued pretraining',
  lora: 'LoRA: little memory, little forgetting, fast iterations, several adapters on one base',
  qlora: 'QLoRA: the largest model that the memory holds, somewhat slower, quality within a point or two of LoRA',
};

function recommend(plans: readonly MethodPlan[]): { method: PlanMethod | null; reasons: string[] } {
  const fitting = plans.filter(({ fits }) => fits);
  // In memory before streamed; 16 bits before 4, but the other way round where all of it is read twice in a step.
  const order = ['lora', 'qlora', 'full', 'qlora streamed', 'lora streamed'];
  const rank = ({ method, settings }: MethodPlan) => order.indexOf(settings.stream_base ? `${method} streamed` : method);
  const [chosen] = [...fitting].sort((a, b) => rank(a) - rank(b));
  if (!chosen) {
    const least = Math.min(...plans.map(({ peak_rss_bytes }) => peak_rss_bytes));
    const reasons = [`the least of them needs ${gigabytes(least)}: take a smaller model, a lower rank, or shorter sequences`];
    return { method: null, reasons };
  }
  const lora = plans.find(({ method }) => method === 'lora');
  const reasons = [advantages[chosen.method]];
  if (chosen.method === 'qlora' && lora)
    reasons.push(
      lora.fits
        ? 'LoRA over 16-bit weights fits only where they are streamed'
        : `LoRA over 16-bit weights would need ${gigabytes(lora.peak_rss_bytes)}`,
    );
  const { gradient_checkpointing, stream_base, optimizer } = chosen.settings;
  const needed = [
    ...(gradient_checkpointing ? ['gradient_checkpointing: true'] : []),
    ...(optimizer.startsWith('paged') ? [`optimizer: ${optimizer}`] : []),
    ...(stream_base ? ['stream_base: true'] : []),
  ];
  if (needed.length > 0) reasons.push(`it fits with ${needed.join(', ')}`);
  if (chosen.method !== 'full' && fitting.some(({ method }) => method === 'full'))
    reasons.push(`full fine-tuning fits, too; ${advantages.full.slice(6)}`);
  return { method: chosen.method, reasons };
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
