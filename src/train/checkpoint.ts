import type { Folder } from '../io/folder.js';
import { restoreTensors, saveTensors } from '../io/tensors.js';
import type { Optimizer } from '../optim/optimizer.js';
import { LowrankError } from '../util/errors.js';
import { isObject, parseJson } from '../util/json.js';

const stateFile = 'trainer_state.json';
const optimizerFile = 'optimizer.safetensors';

/** What a run must have in common with the checkpoint that it goes on from. */
export interface RunIdentity {
  /** Its settings by name, as JSON has them. */
  recipe: Readonly<Record<string, unknown>>;
  /** A hash of the training data. */
  data: string;
  base: { name: string; identity: string };
}

/** What a run has measured up to a step: its result and its log say it, whoever goes on from there. */
export interface RunFigures {
  /** Tokens of all steps. */
  num_input_tokens_seen: number;
  /** Of the last step. */
  loss?: number;
  /** The last held-out loss, and the step that it was taken after. */
  eval_loss?: number;
  eval_step?: number;
}

/** What trainer_state.json says of a run, beside what the run is. */
export interface RunState extends RunFigures {
  /** Optimizer steps that were made. */
  global_step: number;
}

/**
 * Writes `checkpoint-<step>`: what `saveWeights` writes of the adapter or the model, the optimizer's states and trainer_state.json. All
 * randomness derives from the seed and the step, so that there is no other state. Of all checkpoints the newest `keep` stay, and this one.
 */
export async function saveCheckpoint(
  folder: Folder,
  saveWeights: (inner: Folder) => Promise<void>,
  optimizer: Optimizer,
  { identity, figures, keep }: { identity: RunIdentity; figures: RunFigures; keep: number },
): Promise<string> {
  const name = nameOf(optimizer.steps);
  await folder.create(name, async (inner) => {
    await saveWeights(inner);
    await saveTensors(inner, optimizerFile, optimizer.tensors());
    await inner.writeText(stateFile, `${JSON.stringify({ global_step: optimizer.steps, ...figures, ...identity }, null, 2)}\n`);
  });
  await removeOldCheckpoints(folder, optimizer.steps, keep);
  return name;
}

/** Of all checkpoints leaves the one of this step, and the newest of the others, `keep` together. */
export async function removeOldCheckpoints(folder: Folder, step: number, keep: number): Promise<void> {
  const others = (await listCheckpoints(folder)).filter((name) => name !== nameOf(step));
  for (const old of others.slice(0, Math.max(0, others.length + 1 - keep))) await folder.remove(old);
}

const nameOf = (step: number) => `checkpoint-${step}`;

/** The names of a folder's checkpoints, the oldest first. */
export async function listCheckpoints(folder: Folder): Promise<string[]> {
  const names = (await folder.list()).filter((name) => /^checkpoint-\d+$/.test(name));
  const step = (name: string) => Number(name.slice(name.indexOf('-') + 1));
  return names.sort((a, b) => step(a) - step(b));
}

/**
 * Where the run of a checkpoint stood. Throws where the run is another one, in other settings than those that are `changeable`.
 */
export async function readRunState(folder: Folder, identity: RunIdentity, changeable: ReadonlySet<string>): Promise<RunState> {
  const place = `${folder.path}/${stateFile}`;
  const text = await folder.readText(stateFile);
  if (text === undefined) {
    throw new LowrankError(`holds no ${stateFile}`, {
      place: folder.path,
      mend: 'name a checkpoint folder, or train anew with --overwrite',
    });
  }
  const state = parseJson(text, place);
  if (!isObject(state) || !Number.isSafeInteger(state.global_step) || (state.global_step as number) < 0 || !isObject(state.recipe)) {
    throw new LowrankError('not the state of a run', { place, mend: 'resume from an earlier checkpoint, or train anew with --overwrite' });
  }
  const mend = 'resume with the same recipe and data, or train anew with --overwrite';
  for (const key of new Set([...Object.keys(identity.recipe), ...Object.keys(state.recipe)])) {
    const [then, now] = [JSON.stringify(state.recipe[key]), JSON.stringify(identity.recipe[key])];
    if (then === now || changeable.has(key)) continue;
    const had = then === undefined ? `no ${key}` : `${key} = ${then}`;
    throw new LowrankError(`the run had ${had}, the recipe has ${now ?? 'none'}`, { place, mend });
  }
  if (state.data !== identity.data) throw new LowrankError('the run had other training data', { place, mend });
  const base = isObject(state.base) ? state.base : {};
  if (base.identity !== identity.base.identity) {
    const named = typeof base.name === 'string' ? `, ${base.name}` : '';
    throw new LowrankError(`the run had another base model${named}`, { place, mend });
  }
  const figure = (name: string) => (typeof state[name] === 'number' ? (state[name] as number) : undefined);
  return {
    global_step: state.global_step as number,
    num_input_tokens_seen: figure('num_input_tokens_seen') ?? 0,
    loss: figure('loss'),
    eval_loss: figure('eval_loss'),
    eval_step: figure('eval_step'),
  };
}

/** Fills the optimizer of a run that goes on. */
export async function restoreOptimizer(folder: Folder, optimizer: Optimizer, step: number): Promise<void> {
  await restoreTensors(folder, optimizerFile, optimizer.tensors());
  optimizer.steps = step;
}
