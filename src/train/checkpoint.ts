import type { Folder } from '../io/folder.js';
import { restoreTensors, saveTensors } from '../io/tensors.js';
import type { Optimizer } from '../optim/optimizer.js';
import { LowrankError } from '../util/errors.js';
import { isObject, parseJson } from '../util/json.js';
import type { Recipe } from './recipe.js';
import type { Tuning } from './tuning.js';

const stateFile = 'trainer_state.json';
const optimizerFile = 'optimizer.safetensors';

/** What a run must have in common with the checkpoint that it goes on from. */
export interface RunIdentity {
  recipe: Recipe;
  /** Of the training data, see `fingerprint`. */
  data: string;
  base: { name: string; identity: string };
}

/**
 * Writes `checkpoint-<step>`: the adapter or the model, the optimizer's states and trainer_state.json. All randomness derives from the seed and the
 * step, so that there is no other state.
 */
export async function saveCheckpoint(
  folder: Folder,
  tuning: Tuning,
  optimizer: Optimizer,
  identity: RunIdentity,
  keep: number,
): Promise<string> {
  const name = `checkpoint-${optimizer.steps}`;
  await folder.create(name, async (inner) => {
    await tuning.saveCheckpoint(inner);
    await saveTensors(inner, optimizerFile, optimizer.tensors());
    await inner.writeText(stateFile, `${JSON.stringify({ global_step: optimizer.steps, ...identity }, null, 2)}\n`);
  });
  const names = await listCheckpoints(folder);
  for (const old of names.slice(0, Math.max(0, names.length - keep))) await folder.remove(old);
  return name;
}

/** The names of a folder's checkpoints, the oldest first. */
export async function listCheckpoints(folder: Folder): Promise<string[]> {
  const names = (await folder.list()).filter((name) => /^checkpoint-\d+$/.test(name));
  const step = (name: string) => Number(name.slice(name.indexOf('-') + 1));
  return names.sort((a, b) => step(a) - step(b));
}

/** Keys of a recipe that may change between a run and its continuation: they do not touch what is computed. */
const changeable = new Set<keyof Recipe>([
  'base_model',
  'datasets',
  'test_datasets',
  'output_dir',
  'logging_steps',
  'saves_per_epoch',
  'save_steps',
  'save_total_limit',
  'evals_per_epoch',
  'eval_steps',
  'eval_max_new_tokens',
  'memory_limit',
]);

/** The step that a checkpoint was written after. Throws where the run is another one. */
export async function checkpointStep(folder: Folder, identity: RunIdentity): Promise<number> {
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
  for (const key of new Set([...Object.keys(identity.recipe), ...Object.keys(state.recipe)]) as Set<keyof Recipe>) {
    const [then, now] = [JSON.stringify(state.recipe[key]), JSON.stringify(identity.recipe[key])];
    if (then !== now && !changeable.has(key))
      throw new LowrankError(`the run had ${key} = ${then}, the recipe has ${now}`, { place, mend });
  }
  if (state.data !== identity.data) throw new LowrankError('the run had other training data', { place, mend });
  if (isObject(state.base) && state.base.identity !== identity.base.identity) {
    throw new LowrankError(`the run had another base model, ${state.base.name}`, { place, mend });
  }
  return state.global_step as number;
}

/** Fills the optimizer of a run that goes on. */
export async function restoreOptimizer(folder: Folder, optimizer: Optimizer, step: number): Promise<void> {
  await restoreTensors(folder, optimizerFile, optimizer.tensors());
  optimizer.steps = step;
}
