import { dirname } from 'node:path';
import { parseAdapterConfig } from '../adapters/registry.js';
import { CpuBackend } from '../backends/cpu/index.js';
import { openBackend } from '../core/device.js';
import type { ModelTexts } from '../io/model-source.js';
import type { KnownTexts } from '../io/node.js';
import { countParameters, fullBatch } from '../plan/dry-run.js';
import { type MethodPlan, type Plan, type PlanMachine, type PlanMethod, type PlanRequest, planModelOn } from '../plan/plan.js';
import { measureRate } from '../plan/rate.js';
import { knownShape, unknownShape } from '../plan/shapes.js';
import { prepareData } from '../runs/data.js';
import { beside, nodeHost, openModelTexts, readRecipe } from '../runs/node.js';
import { workOfRun } from '../runs/plan.js';
import { loraConfigOf, type Recipe } from '../runs/recipe.js';
import { openRunCodec } from '../runs/template.js';
import { LowrankError } from '../util/errors.js';
import { bytes, counted } from '../util/format.js';
import { type Terminal, thousands, timeRange } from './console.js';
import { openDatasets } from './session.js';

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
  const recipe = recipePath === undefined ? undefined : await recipeToPlan(recipePath, overrides, options);
  const name = recipe?.base_model ?? options.model ?? '';
  const texts = await findTexts(terminal, name, recipePath);
  const known = recipe && texts.tokenizer && (await workOfRecipe(recipe, recipePath!, texts as ModelTexts));
  const precision = recipe?.bf16 === false ? 'fp32' : 'bf16';
  const { memory, threads, resident: runtime } = nodeHost.machine();
  const machine: PlanMachine = { memory: options.memory ?? memory, threads, runtime, rate: await measuredRate(precision) };
  const full = fullBatch(options.microBatchSize ?? recipe?.micro_batch_size ?? 1, options.sequenceLen ?? recipe?.sequence_len ?? 512);
  const lora = recipe ? loraConfigOf(recipe) : parseAdapterConfig({ r: options.rank ?? 16, target_modules: 'all-linear' }, '--rank');
  const request: PlanRequest = {
    name,
    config: texts.config,
    precision,
    lora,
    batch: known?.largest ?? full,
    run: known?.run,
    gradient_accumulation_steps: recipe?.gradient_accumulation_steps ?? 1,
    optimizer: recipe?.optimizer ?? 'adamw_torch',
    memoryLimit: recipe?.memory_limit && recipe.memory_limit * 1e9,
    gradient_checkpointing: recipe?.gradient_checkpointing,
  };
  const plan = await planModelOn(machine, request, options.method && [options.method]);
  terminal.result(plan, describe(plan));
}

/** A recipe with what the command line says otherwise. */
async function recipeToPlan(path: string, overrides: string[], { rank, sequenceLen, microBatchSize }: PlanOptions): Promise<Recipe> {
  const options = Object.entries({ lora_r: rank, sequence_len: sequenceLen, micro_batch_size: microBatchSize });
  const more = options.flatMap(([key, value]) => (value === undefined ? [] : [`${key}=${value}`]));
  return readRecipe(path, [...overrides, ...more]);
}

/** What the data of a recipe make of it; prepared as a run prepares them. */
async function workOfRecipe(recipe: Recipe, path: string, texts: ModelTexts) {
  const datasets = await openDatasets(path, recipe.datasets);
  const codec = await openRunCodec(texts, recipe, { host: nodeHost, near: dirname(path) });
  return workOfRun(recipe, await prepareData(recipe, codec, datasets, [], { host: nodeHost }));
}

/**
 * The model's small files; of a known shape its config alone. A model that cannot be trained is refused, for nothing could be recommended.
 */
async function findTexts(terminal: Terminal, name: string, recipePath?: string): Promise<KnownTexts> {
  const known = knownShape(name);
  if (known) return { name, config: known };
  const onProgress = ({ file, done, total }: { file: string; done: number; total: number }) =>
    terminal.bar(total === 0 ? 1 : done / total, `${file}  ${bytes(done)} of ${bytes(total)}`);
  try {
    const texts = await openModelTexts(beside(name, recipePath === undefined ? '.' : dirname(recipePath)) ?? name, { onProgress });
    countParameters(texts.config, texts.name);
    return texts;
  } catch (error) {
    const refused = error instanceof LowrankError && error.place?.endsWith('config.json');
    throw recipePath === undefined && !refused ? unknownShape(name, error) : error;
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
  const { methods, recommendation, parameters, active_parameters: active, memory_bytes, micro_batch_tokens } = plan;
  const [{ seconds_per_step: timed, run }] = methods;
  const full = plan.arithmetic.full_16_bit;
  const line = (label: string, cells: string[]) => label.padEnd(18) + cells.map((cell) => cell.padStart(20)).join('');
  const each = (label: string, cell: (method: MethodPlan) => string) => line(label, methods.map(cell));
  const settings = ({ settings: { gradient_checkpointing, optimizer, stream_base } }: MethodPlan) =>
    [gradient_checkpointing && 'ckpt', optimizer.startsWith('paged') && 'paged', stream_base && 'streamed'].filter(Boolean).join(' ') ||
    'plain';
  const ofThem = active < parameters ? `${thousands(active)} of them for a token, ` : '';
  return [
    `${plan.model}: ${thousands(parameters)} parameters, ${ofThem}${counted(micro_batch_tokens, 'token')} in ` +
      `${run ? 'the largest' : 'a'} micro-batch, ${bytes(memory_bytes)} of memory`,
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
    ...(timed ? [each('a step', ({ seconds_per_step }) => timeRange(seconds_per_step!))] : []),
    ...(timed && run ? [each('the whole run', (method) => timeRange(method.run!.seconds!))] : []),
    ...(run
      ? [`${counted(run.steps, 'step')} over ${counted(run.tokens, 'token')} of the recipe’s data; evaluations and checkpoints come on top`]
      : []),
    '',
    `in 16 bits throughout, full fine-tuning holds weights ${bytes(full.weights)}, gradients ${bytes(full.gradients)}, Adam ` +
      `${bytes(full.adam)}`,
    recommendation.method
      ? `recommended: ${recommendation.method}`
      : methods.some(({ fits }) => fits)
        ? 'nothing is recommended'
        : 'none of them fits',
    ...recommendation.reasons.map((reason) => `  ${reason}`),
  ].join('\n');
}

/** One line of where the memory will go. */
export function describeRun({ peak_rss_bytes, bytes: parts }: MethodPlan): string {
  const named = rows.map(([label]) => label);
  const sizes = [parts.weights, parts.quantization_constants, parts.adapters, parts.gradients, parts.optimizer, parts.activations];
  const shown = sizes.map((size, i) => [named[i], size] as const).filter(([, size]) => size >= 0.02 * peak_rss_bytes);
  const list = shown.map(([label, size]) => `${label} ${bytes(size)}`).join(', ');
  return `${bytes(peak_rss_bytes)} peak: ${list || 'nearly all of it the process itself'}`;
}
