import { basename, dirname, resolve } from 'node:path';
import type { Backend, Span } from '../core/backend.js';
import { previewSequence } from '../data/preview.js';
import type { Folder } from '../io/folder.js';
import type { ModelSource } from '../io/model-source.js';
import { localFolder } from '../io/node/folder.js';
import type { TextCodec } from '../models/text-model.js';
import { listCheckpoints } from '../train/checkpoint.js';
import { countSteps, prepareData, type RunData } from '../train/data.js';
import { chromeTrace } from '../train/profile.js';
import { loadOptionsOf, type Recipe, streamingOf } from '../train/recipe.js';
import { type TrainEvent, type TrainResult, train } from '../train/run.js';
import { LowrankError } from '../util/errors.js';
import { bytes, duration, peakMemory, type Terminal, thousands } from './console.js';
import { interruptedExitCode, interruptible } from './interrupt.js';
import { describeRun, machineMemory, planRun } from './plan.js';
import { codecOf, findModel, openSession, readDatasets, readRecipe } from './session.js';

export interface TrainOptions {
  json?: boolean;
  device?: string;
  /** The highest checkpoint (true) or a named one. */
  resume?: true | string;
  overwrite?: boolean;
  preview?: boolean;
  force?: boolean;
  /** File for the profile of one step. */
  profile?: string;
}

/** `lowrank train RECIPE.yaml [key=value …]` */
export async function trainCommand(terminal: Terminal, path: string, overrides: string[], options: TrainOptions): Promise<void> {
  const recipe = await readRecipe(path, overrides);
  const folder = localFolder(recipe.output_dir);
  const resume = await findCheckpoint(folder, recipe, options);
  const datasets = await readDatasets(path, recipe.datasets);
  const tests = await readDatasets(path, recipe.test_datasets ?? []);
  const source = await findModel(terminal, recipe.base_model, { revision: recipe.revision_of_model, near: dirname(path) });
  if (recipe.adapter === 'full' && resolve(source.name) === resolve(folder.path)) {
    throw new LowrankError('output_dir is the base model’s folder', { place: folder.path, mend: 'choose another output_dir=…' });
  }
  const codec = codecOf(source, recipe);
  const data = await prepareData(recipe, codec, datasets, tests);
  describeData(terminal, recipe, data);
  if (options.preview) {
    for (const { row, sequences } of data.train.slice(0, 3))
      terminal.note(`\n${row}\n${sequences.map((each) => previewSequence(codec.tokenizer, each, painter(terminal))).join('\n')}`);
    terminal.result({ preview: data.train.length }, '');
    return source.checkpoint.close();
  }
  const plan = await planRun(recipe, source, data, streamingOf(recipe));
  terminal.note(`plan       ${describeRun(plan)}`);
  if (!plan.fits && !options.force) {
    await source.checkpoint.close();
    throw new LowrankError(`the run would hold ${bytes(plan.peak_rss_bytes)} of memory, and the machine has ${bytes(machineMemory())}`, {
      place: path,
      mend: 'set adapter: qlora, gradient_checkpointing: true or stream_base: true, or lower sequence_len; --force tries nevertheless',
    });
  }
  const { device, profile } = options;
  const result = await trainSession(terminal, { recipe, source, codec, data, folder, resume, device, profile });
  const peak = peakMemory();
  terminal.result({ ...result, peak_rss_gb: peak / 1e9, planned_rss_gb: plan.peak_rss_bytes / 1e9 }, '');
  describeResult(terminal, result, peak, plan.peak_rss_bytes);
  if (result.interrupted) process.exitCode = interruptedExitCode;
}

async function trainSession(
  terminal: Terminal,
  run: {
    recipe: Recipe;
    source: ModelSource;
    codec: TextCodec;
    data: RunData;
    folder: Folder;
    resume?: Folder;
    device?: string;
    profile?: string;
  },
): Promise<TrainResult> {
  const { recipe, device, codec, source, profile, ...rest } = run;
  const session = await openSession(terminal, source, codec, { device, ...loadOptionsOf(recipe), streaming: streamingOf(recipe) });
  terminal.note(`device     ${session.backend.description}`);
  try {
    const start = recipe.lora_model_dir === undefined ? undefined : localFolder(recipe.lora_model_dir);
    const { tuner, result } = await interruptible(terminal, 'finishing the step under way, then saving', (signal) =>
      train({
        ...rest,
        recipe,
        source,
        text: session.text,
        start,
        signal,
        onEvent: trainReporter(terminal, recipe),
        onProfile: profile === undefined ? undefined : profileWriter(terminal, session.backend, profile),
      }),
    );
    tuner.dispose();
    return result;
  } finally {
    await session.close();
  }
}

/** Writes the profile of a step. */
function profileWriter(terminal: Terminal, backend: Backend, path: string): (step: number, spans: readonly Span[]) => Promise<void> {
  if (!backend.takeProfile)
    throw new LowrankError(`the backend ${backend.name} keeps no profile`, { place: '--profile', mend: 'use --device cpu' });
  return async (step, spans) => {
    await localFolder(dirname(path)).writeText(basename(path), JSON.stringify(chromeTrace(spans)));
    terminal.note(`profile    step ${step} in ${path}: open it in chrome://tracing or https://ui.perfetto.dev`);
  };
}

/** The checkpoint to go on from. A folder with an earlier run is never overwritten unasked. */
async function findCheckpoint(folder: Folder, recipe: Recipe, { resume, overwrite }: TrainOptions): Promise<Folder | undefined> {
  if (typeof resume === 'string') return localFolder(resume);
  const checkpoints = await listCheckpoints(folder);
  const names = await folder.list();
  if (resume) {
    const last = checkpoints.at(-1);
    if (last === undefined) throw new LowrankError('holds no checkpoint', { place: folder.path, mend: 'train without --resume' });
    return folder.folder(last);
  }
  if (!overwrite && (checkpoints.length > 0 || names.includes(recipe.adapter === 'full' ? 'config.json' : 'adapter_model.safetensors'))) {
    throw new LowrankError('holds an earlier run', {
      place: folder.path,
      mend: 'go on with --resume, start anew with --overwrite, or choose another output_dir=…',
    });
  }
  return undefined;
}

/** One line per data set, and what was left out. */
export function describeData(terminal: Terminal, recipe: Recipe, data: RunData): void {
  for (const { path, test, statistics } of data.statistics) {
    const { rows, tokens, supervised, longest, dropped, truncated, type } = statistics;
    const parts = [
      `${thousands(rows)} rows`,
      `${thousands(tokens)} tokens`,
      `${thousands(supervised)} supervised`,
      `longest ${longest}`,
      type,
    ];
    terminal.note(`${test ? 'held out  ' : 'data      '} ${path}: ${parts.join(', ')}`);
    if (dropped > 0) terminal.warn(`${dropped} rows of ${path} are longer than sequence_len ${recipe.sequence_len} and were dropped`);
    if (truncated > 0) terminal.warn(`${truncated} rows of ${path} were cut to sequence_len ${recipe.sequence_len}`);
  }
  const { steps_per_epoch, total_steps } = countSteps(recipe, data);
  terminal.note(`steps      ${total_steps} (${steps_per_epoch} an epoch)`);
}

/** Shows a run's events: a bar in a terminal, lines in a pipe. */
export function trainReporter(terminal: Terminal, recipe: Recipe): (event: TrainEvent) => void {
  const { colors } = terminal;
  return (event) => {
    switch (event.type) {
      case 'start': {
        const { trainable, all, percent, step } = event;
        terminal.note(`parameters ${thousands(trainable)} trainable of ${thousands(all)} (${percent.toFixed(2)} %)`);
        if (step > 0) terminal.note(`resuming after step ${step}`);
        break;
      }
      case 'step': {
        const { step, total_steps, loss, learning_rate, seconds } = event.record;
        const { seconds: spent, remaining_seconds: left, tokens_per_second: rate } = event.progress;
        const text = `${step}/${total_steps} ${duration(spent)}<${duration(left)} loss ${loss.toFixed(4)} ${thousands(rate)} tok/s`;
        terminal.bar(step / total_steps, text);
        if (!terminal.live && (step % recipe.logging_steps === 0 || step === total_steps)) {
          terminal.note(`step ${text} lr ${learning_rate.toExponential(2)} ${seconds.toFixed(2)} s/it`);
        }
        break;
      }
      case 'evaluation':
        terminal.note(`step ${event.step}: held-out loss ${event.loss.toFixed(4)}, perplexity ${event.perplexity.toFixed(3)}`);
        break;
      case 'checkpoint':
        if (!terminal.live) terminal.note(colors.dim(`saved ${event.path}`));
        break;
      case 'end':
        terminal.clearBar();
    }
  };
}

function describeResult(terminal: Terminal, result: TrainResult, peak: number, planned: number): void {
  const { steps, total_steps, interrupted, seconds, tokens_per_second, mean_loss, memory } = result;
  const state = interrupted ? `interrupted after step ${steps} of ${total_steps}` : `${steps} steps`;
  terminal.note(`done       ${state} in ${duration(seconds)}, ${thousands(tokens_per_second)} tokens/s, loss ${mean_loss.toFixed(4)}`);
  terminal.note(`memory     ${bytes(peak)} peak, planned ${bytes(planned)}; tensors ${bytes(memory.peak)}`);
  if (result.streamed_bytes_per_step) terminal.note(`streamed   ${bytes(result.streamed_bytes_per_step)} of weights a step`);
  const [kind, path] = outcome(result);
  terminal.note(`${kind.padEnd(10)} ${path}`);
  terminal.note(interrupted ? 'next       the same command with --resume' : `next       lowrank chat --${kind} ${path}`);
}

/** What a run wrote, as commands name it in their options, and where. */
export function outcome({ adapter_dir, model_dir }: TrainResult): ['adapter' | 'model', string] {
  return model_dir === undefined ? ['adapter', adapter_dir ?? ''] : ['model', model_dir];
}

/** Supervised text green, the rest dim; without colours supervised text stands in ‹ ›. */
function painter({ colors, live }: Terminal): (text: string, supervised: boolean) => string {
  if (!live) return (text, supervised) => (supervised ? `‹${text}›` : text);
  return (text, supervised) => (supervised ? colors.green(text) : colors.dim(text));
}
