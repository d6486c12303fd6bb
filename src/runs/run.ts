import { adapterConfigFile, noAdapter } from '../adapters/folder.js';
import { parseAdapterConfig } from '../adapters/registry.js';
import type { Span } from '../core/backend.js';
import { dataWarnings } from '../data/warnings.js';
import type { Folder } from '../io/folder.js';
import type { ModelSource } from '../io/model-source.js';
import type { TextCodec } from '../models/text-model.js';
import { countParameters } from '../plan/dry-run.js';
import { listCheckpoints } from '../train/checkpoint.js';
import { chromeTrace } from '../train/profile.js';
import { LowrankError } from '../util/errors.js';
import { bytes } from '../util/format.js';
import { parseJson } from '../util/json.js';
import { commonSystem, readContract } from './contract.js';
import { countSteps, openDatasets, prepareData, type RunData } from './data.js';
import type { RunEvent, RunResult } from './events.js';
import type { Host } from './host.js';
import { planRun } from './plan.js';
import { checkRecipe, loadOptionsOf, loraKeys, parseRecipe, type Recipe, type RecipeInput, streamingOf } from './recipe.js';
import { findModel, openSession, type Session } from './session.js';
import { endWarnings, openRunCodec } from './template.js';
import { refuseEarlierRun, trainLocked } from './train.js';

/** Where a run is and who hears of it. */
export interface RunContext {
  host: Host;
  /** What errors call the recipe: its file. */
  name?: string;
  /** Folder that the recipe's relative paths begin at, where they lead to something from there; default: the current one. */
  near?: string;
  /** Hears of all that happens, as it happens. */
  onEvent?: (event: RunEvent) => void;
  /**
   * Before the first step it ends the run with its reason; later the step under way is finished and saved, and the result is `interrupted`.
   */
  signal?: AbortSignal;
}

export interface RunOptions extends RunContext {
  /** The backend; default: the fastest that works. */
  device?: string;
  /** Goes on from the newest checkpoint in output_dir (true), or from this one. */
  resume?: boolean | string;
  /** Replaces an earlier run in output_dir. */
  overwrite?: boolean;
  /** Trains although the plan says that the memory does not hold it. */
  force?: boolean;
  /** File for the profile of one step, a Chrome trace. */
  profile?: string;
  /** Asked after each step but the last; a text, which says why, ends the run there with a whole result. */
  stopAfter?: (step: number) => Promise<string | undefined>;
}

/**
 * Trains what a recipe says, given as an object or as the text of a file: reads the data, finds the model, plans, loads, trains, and leaves
 * the result in output_dir, which is locked meanwhile. Prints nothing; `onEvent` hears of everything. Throws a LowrankError where another
 * run writes into output_dir, where that holds an earlier run and neither `resume` nor `overwrite` is given, and where the memory would not
 * hold the run.
 */
export async function startRun(recipe: RecipeInput | string, options: RunOptions): Promise<RunResult> {
  const { host, onEvent } = options;
  const checked = readRecipe(recipe, options);
  const folder = host.folder(checked.output_dir);
  const unlock = await folder.lock();
  let result: RunResult;
  try {
    const resume = await findCheckpoint(folder, options);
    // Templates may show the date: a run that goes on sees that of its first day, or its data would be others.
    const clock = resume && (await readContract(resume))?.clock;
    result = await trainPrepared(await prepare(checked, options, clock), folder, resume, options);
  } finally {
    await unlock();
  }
  onEvent?.({ type: 'end', result });
  return result;
}

/** What errors call the recipe. */
export const nameOf = ({ name = 'recipe' }: RunContext): string => name;

/** A recipe as one writes it, checked. */
export function readRecipe(recipe: RecipeInput | string, context: RunContext): Recipe {
  return typeof recipe === 'string' ? parseRecipe(recipe, nameOf(context)) : checkRecipe(recipe, nameOf(context));
}

/** The checkpoint to go on from; a folder with an earlier run is refused unless it is to be resumed or replaced. */
async function findCheckpoint(folder: Folder, { host, resume, overwrite }: RunOptions): Promise<Folder | undefined> {
  if (typeof resume === 'string') return host.folder(resume);
  if (!resume) {
    if (!overwrite) await refuseEarlierRun(folder);
    return undefined;
  }
  const last = (await listCheckpoints(folder)).at(-1);
  if (last === undefined) throw new LowrankError('holds no checkpoint', { place: folder.path, mend: 'train without --resume' });
  return folder.folder(last);
}

/** What a run has before it needs a device. */
interface Prepared {
  recipe: Recipe;
  source: ModelSource;
  codec: TextCodec;
  data: RunData;
  system?: string;
}

/** Reads the data, finds the model, makes examples; `clock` is the time that templates see, now where absent. */
async function prepare(recipe: Recipe, context: RunContext, clock?: string): Promise<Prepared> {
  const { host, near, onEvent, signal } = context;
  const origin = { name: nameOf(context), near };
  const datasets = await openDatasets(host, recipe.datasets, origin);
  const tests = await openDatasets(host, recipe.test_datasets ?? [], origin);
  signal?.throwIfAborted();
  const source = await findModel(recipe.base_model, context, { revision: recipe.revision_of_model, near });
  try {
    if (host.isSame(source.path ?? source.name, recipe.output_dir))
      throw new LowrankError('output_dir is the base model’s folder', { place: recipe.output_dir, mend: 'choose another output_dir=…' });
    // Builds the model's shape: a family or a setting that nothing here can compute is refused before any row is read.
    countParameters(source.config, source.name);
    if (recipe.lora_model_dir !== undefined)
      for (const message of await warningsOfStart(recipe, source, host.folder(recipe.lora_model_dir)))
        onEvent?.({ type: 'warning', message });
    const codec = await openRunCodec(source, recipe, { host, near }, clock);
    const data = await prepareData(recipe, codec, datasets, tests, { host, signal });
    for (const event of dataEvents(recipe, data)) onEvent?.(event);
    for (const message of await endWarnings(recipe, source, codec, data)) onEvent?.({ type: 'warning', message });
    signal?.throwIfAborted();
    return { recipe, source, codec, data, system: await commonSystem(recipe, datasets) };
  } catch (error) {
    await source.checkpoint.close();
    throw error;
  }
}

/** What of a recipe does not count because the adapter that it begins with says otherwise, and whether that was made for another base. */
async function warningsOfStart(recipe: Recipe, source: ModelSource, folder: Folder): Promise<string[]> {
  const text = await folder.readText(adapterConfigFile);
  if (text === undefined) throw await noAdapter(folder);
  if (recipe.adapter === 'full') return [];
  const started: Readonly<Record<string, unknown>> = {
    ...parseAdapterConfig(parseJson(text, folder.path), `${folder.path}/${adapterConfigFile}`),
  };
  const differing = Object.entries(loraKeys).flatMap(([key, name]) => {
    const [asked, own] = [recipe[key as keyof Recipe], started[name]].map((value) => JSON.stringify(value));
    return asked === undefined || asked === own ? [] : [`${key} is ${own ?? 'not set'}, and the recipe’s ${asked} does not count`];
  });
  const base = (await readContract(folder))?.base;
  return [
    ...(differing.length === 0 ? [] : [`lora_model_dir: the adapter keeps the settings it was made with: ${differing.join('; ')}`]),
    ...(base === undefined || base.identity === source.identity
      ? []
      : [`lora_model_dir: the adapter was trained on another base, ${base.name}, than ${source.name}`]),
  ];
}

/** One event per data set, what was left out of it, and the steps that all make. */
export function* dataEvents(recipe: Recipe, data: RunData): Generator<RunEvent> {
  for (const { path, test, statistics } of data.statistics) {
    yield { type: 'data', path, held_out: test, statistics };
    for (const message of dataWarnings(statistics, path, recipe.sequence_len)) yield { type: 'warning', message };
  }
  yield { type: 'steps', ...countSteps(recipe, data) };
}

/** Plans, loads and trains; closes the model. */
async function trainPrepared(prepared: Prepared, folder: Folder, resume: Folder | undefined, options: RunOptions): Promise<RunResult> {
  const { recipe, source, codec, data, system } = prepared;
  const { host, device, onEvent, signal, stopAfter } = options;
  let close = () => source.checkpoint.close();
  try {
    const planned_rss_bytes = await checkPlan(prepared, options);
    signal?.throwIfAborted();
    // From here on the source is the session's, also where that does not come about.
    close = async () => {};
    const session = await openSession(source, codec, { device, ...loadOptionsOf(recipe), streaming: streamingOf(recipe) }, options);
    close = session.close;
    const onProfile = profileWriter(session, options);
    const start = recipe.lora_model_dir === undefined ? undefined : host.folder(recipe.lora_model_dir);
    const inputs = { recipe, source, text: session.text, data, folder, resume, start, signal, stopAfter, onEvent };
    const { tuner, result } = await trainLocked({ ...inputs, onProfile });
    tuner.dispose();
    return { ...result, peak_rss_bytes: host.machine().peak, planned_rss_bytes, system };
  } finally {
    await close();
  }
}

/** The bytes that the run would hold at most; throws where the machine has fewer. */
async function checkPlan({ recipe, source, data }: Prepared, options: RunOptions): Promise<number> {
  const machine = options.host.machine();
  const plan = await planRun(recipe, source, data, machine);
  options.onEvent?.({ type: 'plan', plan, memory_bytes: machine.memory });
  if (plan.fits || options.force) return plan.peak_rss_bytes;
  throw new LowrankError(`the run would hold ${bytes(plan.peak_rss_bytes)} of memory, and the machine has ${bytes(machine.memory)}`, {
    place: nameOf(options),
    mend: 'set adapter: qlora, gradient_checkpointing: true or stream_base: true, or lower sequence_len; --force tries nevertheless',
  });
}

/** Writes the profile of a step where one is wanted. */
function profileWriter({ backend }: Session, { host, profile: path, onEvent }: RunOptions) {
  if (path === undefined) return undefined;
  if (!backend.takeProfile)
    throw new LowrankError(`the backend ${backend.name} keeps no profile`, { place: '--profile', mend: 'use --device cpu' });
  return async (step: number, spans: readonly Span[]) => {
    await host.writeText(path, JSON.stringify(chromeTrace(spans)));
    onEvent?.({ type: 'profile', step, path });
  };
}
