import { stringify } from 'yaml';
import type { Tuner } from '../adapters/tuner.js';
import type { Span } from '../core/backend.js';
import type { Folder } from '../io/folder.js';
import type { ModelSource } from '../io/model-source.js';
import type { TextModel } from '../models/text-model.js';
import type { CausalLM } from '../nn/model.js';
import { createOptimizer, type Optimizer } from '../optim/optimizer.js';
import {
  listCheckpoints,
  type RunIdentity,
  type RunState,
  readRunState,
  removeOldCheckpoints,
  restoreOptimizer,
  saveCheckpoint,
} from '../train/checkpoint.js';
import { type LoopOptions, type StepRecord, trainLoop } from '../train/loop.js';
import { opTimes } from '../train/profile.js';
import { evaluateLoss, type StepResult } from '../train/step.js';
import { debug, debugLevel } from '../util/debug.js';
import { LowrankError } from '../util/errors.js';
import { makeContract, resultTexts } from './contract.js';
import { countSteps, fingerprint, heldBatches, type RunData, trainingBatches } from './data.js';
import type { Progress, TrainEvent, TrainResult } from './events.js';
import { changeableKeys, type Recipe } from './recipe.js';
import { beginTuning, openTuning, type Tuning } from './tuning.js';

export interface TrainInputs {
  recipe: Recipe;
  source: ModelSource;
  text: TextModel;
  data: RunData;
  /** output_dir */
  folder: Folder;
  /** The checkpoint to go on from. */
  resume?: Folder;
  /** Replaces an earlier run in `folder`, which else is refused. */
  overwrite?: boolean;
  /** The adapter to begin with (lora_model_dir). */
  start?: Folder;
  /** When it fires, the step under way is finished and saved; before the first one it ends all with its reason. */
  signal?: AbortSignal;
  onEvent?: (event: TrainEvent) => void;
  /** Asked after each step but the last; a text, which says why, ends the run there with a whole result. */
  stopAfter?: (step: number) => Promise<string | undefined>;
  /** Takes the profile of one step: the third of this run, when all is warm, or the last of fewer. */
  onProfile?: (step: number, spans: readonly Span[]) => Promise<void>;
}

const logFile = 'trainer_log.jsonl';

/** What a training leaves: its result, and what was trained, which still is in the model until its `dispose`. */
export interface Trained {
  tuner: Tuner;
  result: TrainResult;
}

/**
 * Trains what the recipe says, an adapter or the whole model, and leaves it in place. Checkpoints appear in the folder as it goes; at the
 * end, and when it is interrupted, the adapter or model with tokenizer, model card and recipe. The folder is locked meanwhile. An earlier
 * run in it is refused unless `resume` or `overwrite` is given, and then replaced from the first step on. Full fine-tuning needs a model
 * that was loaded with `trainable`.
 */
export async function train(inputs: TrainInputs): Promise<Trained> {
  const { folder, resume, overwrite } = inputs;
  const unlock = await folder.lock();
  try {
    if (!resume && !overwrite) await refuseEarlierRun(folder);
    return await trainLocked(inputs);
  } finally {
    await unlock();
  }
}

/** Throws where a folder holds checkpoints, an adapter or a model, of any method: never is an earlier run overwritten unasked. */
export async function refuseEarlierRun(folder: Folder): Promise<void> {
  const names = await folder.list();
  const results = ['adapter_model.safetensors', 'config.json'];
  if (!results.some((name) => names.includes(name)) && (await listCheckpoints(folder)).length === 0) return;
  throw new LowrankError('holds an earlier run', {
    place: folder.path,
    mend: 'go on with --resume, start anew with --overwrite, or choose another output_dir=…',
  });
}

/** `train` for a caller that has locked the folder and looked for an earlier run in it. */
export async function trainLocked(inputs: TrainInputs): Promise<Trained> {
  const { recipe, source, text, data } = inputs;
  const identity: RunIdentity = { recipe, data: await fingerprint(data), base: { name: source.name, identity: source.identity } };
  // A log that cannot be written is found before the first step, not after it.
  await inputs.folder.checkAppendable(logFile);
  text.model.balanceFactor = balanceFactorOf(recipe, text.model);
  const { tuning, state } = await begin(inputs, identity);
  const { tuner } = tuning;
  const limit = recipe.memory_limit && recipe.memory_limit * 1e9;
  const paging = { folder: inputs.folder.path, limit };
  let optimizer: Optimizer | undefined;
  try {
    optimizer = createOptimizer(recipe.optimizer, tuner.parameters(), { ...recipe, paging });
    if (inputs.resume) await restoreOptimizer(inputs.resume, optimizer, state.global_step);
    text.model.backend.resetPeak();
    const result = await new Run(inputs, identity, { tuning, optimizer, state }).train();
    return { tuner, result };
  } catch (error) {
    tuner.dispose();
    throw error;
  } finally {
    optimizer?.dispose();
  }
}

/** The factor of the balancing loss of experts: the recipe's, else config.json's where that wants the loss. */
function balanceFactorOf(recipe: Recipe, { mixtures, balanceFactor }: CausalLM): number | undefined {
  const { output_router_logits: wanted, router_aux_loss_coef: factor } = recipe;
  const place = wanted === undefined ? 'router_aux_loss_coef' : 'output_router_logits';
  if (!mixtures && (wanted || factor)) throw new LowrankError('the model has no experts', { place, mend: 'remove the key' });
  if (!(wanted ?? (factor !== undefined || balanceFactor !== undefined))) return undefined;
  return factor ?? mixtures?.balanceFactor;
}

async function begin(inputs: TrainInputs, identity: RunIdentity): Promise<{ tuning: Tuning; state: RunState }> {
  const { recipe, source, text, data, resume, start } = inputs;
  const contract = makeContract(recipe, source, text, data);
  const what = { recipe, source, model: text.model, texts: resultTexts(source, { ...text, contract }) };
  if (!resume) return { tuning: await beginTuning(what, start), state: { global_step: 0, num_input_tokens_seen: 0 } };
  const state = await readRunState(resume, identity, changeableKeys);
  const { total_steps } = countSteps(recipe, data);
  if (state.global_step > total_steps) {
    const mend = 'resume from another checkpoint, or train anew with --overwrite';
    const place = `${resume.path}/trainer_state.json`;
    throw new LowrankError(`the run was at step ${state.global_step}`, { place, expected: `at most ${total_steps}, all its steps`, mend });
  }
  return { tuning: await openTuning(what, resume), state };
}

class Run {
  private readonly inputs: TrainInputs;
  private readonly identity: RunIdentity;
  private readonly tuning: Tuning;
  private readonly optimizer: Optimizer;
  private readonly options: LoopOptions;
  private readonly saveEvery: number;
  private readonly evaluateEvery: number;
  private readonly firstStep: number;
  private readonly losses: number[] = [];
  private saved = -1;
  private stopped?: string;
  /** Up to the last step, those of earlier runs included. */
  private readonly state: RunState;
  /** Of this run's steps. */
  private tokens = 0;
  /** Spent in steps, without saving and evaluating. */
  private stepSeconds = 0;
  private begun = 0;

  constructor(
    inputs: TrainInputs,
    identity: RunIdentity,
    { tuning, optimizer, state }: { tuning: Tuning; optimizer: Optimizer; state: RunState },
  ) {
    const { recipe, data } = inputs;
    const { steps_per_epoch, total_steps } = countSteps(recipe, data);
    this.inputs = inputs;
    this.identity = identity;
    this.tuning = tuning;
    this.optimizer = optimizer;
    this.state = { ...state };
    this.firstStep = state.global_step;
    this.options = {
      ...recipe,
      offloadFolder: inputs.folder.path,
      steps_per_epoch,
      total_steps,
      // transformers rounds up, too.
      warmup_steps: recipe.warmup_steps ?? Math.ceil(recipe.warmup_ratio * total_steps),
    };
    this.saveEvery = recipe.save_steps ?? Math.ceil(steps_per_epoch / (recipe.saves_per_epoch ?? 1));
    this.evaluateEvery = recipe.eval_steps ?? Math.ceil(steps_per_epoch / (recipe.evals_per_epoch ?? 1));
  }

  async train(): Promise<TrainResult> {
    const { recipe, data, folder, signal, onEvent } = this.inputs;
    const { total_steps, steps_per_epoch } = this.options;
    const { tuner, kind } = this.tuning;
    onEvent?.({ type: 'start', ...tuner.count(), total_steps, steps_per_epoch, step: this.firstStep });
    if (this.firstStep >= total_steps) onEvent?.({ type: 'warning', message: this.nothingLeft() });
    this.begun = performance.now();
    // Cut off before it was taken, by a signal for instance.
    if (this.firstStep > 0 && this.isEvaluated(this.firstStep) && this.state.eval_step !== this.firstStep)
      await this.evaluate(this.firstStep);
    const trainable = { tuner, optimizer: this.optimizer };
    const { stream } = this.inputs.text.model;
    const readBefore = stream?.bytesRead ?? 0;
    const batches = (epoch: number) => trainingBatches(recipe, data, epoch);
    const { steps, interrupted } = await trainLoop(trainable, batches, this.options, {
      signal,
      onStep: (record) => this.afterStep(record),
      finished: () => this.stopped !== undefined,
      runStep: (step, run) => this.profiled(step, run),
    });
    // Not a step was made: the folder stays as it was.
    if (steps === this.firstStep) signal?.throwIfAborted();
    if (interrupted && this.saved !== steps) await this.save();
    // Before the result a run may have ended while it made room for the last checkpoint.
    if (steps === this.firstStep) await removeOldCheckpoints(folder, steps, recipe.save_total_limit);
    await this.writeResult(steps);
    const { loss = Number.NaN, eval_loss } = this.state;
    const tail = this.losses.length === 0 ? [loss] : this.losses.slice(-Math.ceil(this.losses.length / 10));
    return {
      steps,
      trained_steps: steps - this.firstStep,
      total_steps,
      interrupted,
      stopped: this.stopped,
      loss,
      mean_loss: tail.reduce((sum, loss) => sum + loss, 0) / tail.length,
      eval_loss,
      seconds: (performance.now() - this.begun) / 1000,
      tokens: this.tokens,
      tokens_per_second: this.tokens / (this.stepSeconds || 1),
      framing: this.tuning.texts.contract?.framing ?? 'chat',
      ...(kind === 'adapter' ? { adapter_dir: folder.path } : { model_dir: folder.path }),
      memory: this.inputs.text.model.backend.memory(),
      streamed_bytes_per_step: stream && (stream.bytesRead - readBefore) / Math.max(1, steps - this.firstStep),
    };
  }

  private nothingLeft(): string {
    const { total_steps } = this.options;
    const key = this.tuning.kind === 'adapter' ? 'lora_model_dir' : 'base_model';
    const where = `the checkpoint is at step ${this.firstStep} of ${total_steps}: there is nothing left to train`;
    return `${where}, only the result is written; to train further begin a new run with this ${this.tuning.kind} (${key})`;
  }

  /** Whether the held-out loss is due after a step. */
  private isEvaluated(step: number, last = step >= this.options.total_steps): boolean {
    return this.inputs.data.held.length > 0 && (step % this.evaluateEvery === 0 || last);
  }

  /** Times a step's ops for DEBUG=2, and for `onProfile` one step's. */
  private async profiled(step: number, run: () => Promise<StepResult>): Promise<StepResult> {
    const { text, onProfile } = this.inputs;
    const { backend } = text.model;
    const wanted = onProfile && step === Math.min(this.firstStep + 3, this.options.total_steps);
    if (!backend.startProfile || !backend.takeProfile || (!wanted && debugLevel < 2)) return run();
    backend.startProfile();
    const result = await run();
    const spans = await backend.takeProfile();
    debug(2, () => `step ${step}: ${opTimes(spans)}`);
    if (wanted) await onProfile(step, spans);
    return result;
  }

  private async afterStep(record: StepRecord): Promise<void> {
    const { recipe, folder, onEvent, signal, stopAfter } = this.inputs;
    const { step, total_steps } = record;
    // Only now: until a step has gone well an earlier run stays as it was.
    if (step === this.firstStep + 1) await (step === 1 ? clearRun(folder) : cutLog(folder, this.firstStep));
    this.losses.push(record.loss);
    this.tokens += record.tokens;
    this.state.loss = record.loss;
    this.state.num_input_tokens_seen += record.tokens;
    this.stepSeconds += record.seconds;
    const seconds = (performance.now() - this.begun) / 1000;
    const progress: Progress = {
      seconds,
      remaining_seconds: (seconds / (step - this.firstStep)) * (total_steps - step),
      tokens: this.tokens,
      tokens_per_second: this.tokens / this.stepSeconds,
    };
    const logged = step % recipe.logging_steps === 0 || step === total_steps;
    onEvent?.({ type: 'step', record, progress, logged });
    if (step < total_steps && !signal?.aborted) this.stopped = await stopAfter?.(step);
    const last = step === total_steps || this.stopped !== undefined;
    if (logged || last) await this.log(record, progress);
    if (this.isEvaluated(step, last) && !signal?.aborted) await this.evaluate(step);
    if (step % this.saveEvery === 0 || last) await this.save();
  }

  /** One line of trainer_log.jsonl; the first names are LLaMA-Factory's. */
  private async log(record: StepRecord, progress: Progress): Promise<void> {
    const { step, total_steps, loss, learning_rate, epoch, grad_norm, supervised } = record;
    const line = {
      current_steps: step,
      total_steps,
      loss,
      lr: learning_rate,
      epoch,
      percentage: Math.round((step / total_steps) * 1e4) / 100,
      elapsed_time: clock(progress.seconds),
      remaining_time: clock(progress.remaining_seconds),
      throughput: Math.round(progress.tokens_per_second * 100) / 100,
      total_tokens: this.state.num_input_tokens_seen,
      grad_norm,
      supervised_tokens: supervised,
    };
    await this.inputs.folder.append(logFile, JSON.stringify(line));
  }

  private async evaluate(step: number): Promise<void> {
    const { recipe, text, data, folder, signal, onEvent } = this.inputs;
    try {
      const { loss, perplexity } = await evaluateLoss(text.model, heldBatches(recipe, data), { signal });
      Object.assign(this.state, { eval_loss: loss, eval_step: step });
      await folder.append(logFile, JSON.stringify({ current_steps: step, eval_loss: loss, eval_perplexity: perplexity }));
      onEvent?.({ type: 'evaluation', step, loss, perplexity });
    } catch (error) {
      // Interrupted: the loop ends after this step and saves.
      if (!signal?.aborted) throw error;
    }
  }

  private async save(): Promise<void> {
    const { folder, recipe, onEvent } = this.inputs;
    const { global_step: _, ...figures } = this.state;
    const about = { identity: this.identity, figures, keep: recipe.save_total_limit };
    const name = await saveCheckpoint(folder, (inner) => this.tuning.saveCheckpoint(inner), this.optimizer, about);
    this.saved = this.optimizer.steps;
    onEvent?.({ type: 'checkpoint', step: this.saved, path: `${folder.path}/${name}` });
  }

  /** The adapter or model with all that a reader of the folder needs. */
  private async writeResult(steps: number): Promise<void> {
    const { folder, recipe, onEvent } = this.inputs;
    const { total_steps } = this.options;
    const { loss, eval_loss: evalLoss } = this.state;
    await this.tuning.saveResult(folder, async (inner) => {
      await inner.writeText('training_args.yaml', stringify(recipe));
      await inner.writeText('README.md', this.tuning.card({ steps, total_steps, loss, evalLoss }));
    });
    onEvent?.({ type: 'save', step: steps, path: folder.path });
  }
}

/** `0:04:31`, as LLaMA-Factory writes it. */
export function clock(seconds: number): string {
  const s = Math.round(seconds);
  const two = (n: number) => String(n).padStart(2, '0');
  return `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

/** Removes what an earlier run left in its folder. */
async function clearRun(folder: Folder): Promise<void> {
  for (const name of [...(await listCheckpoints(folder)), logFile]) await folder.remove(name);
}

/** Removes the log's lines of steps after `last`, which are done again: each step stands in it once. */
async function cutLog(folder: Folder, last: number): Promise<void> {
  const lines = ((await folder.readText(logFile)) ?? '').split('\n').filter((line) => line !== '');
  const stepOf = (line: string): number => {
    try {
      return Number((JSON.parse(line) as { current_steps?: unknown }).current_steps);
    } catch {
      // Cut off in the middle, as by a killed process.
      return Number.POSITIVE_INFINITY;
    }
  };
  const kept = lines.filter((line) => !(stepOf(line) > last));
  if (kept.length < lines.length) await folder.writeText(logFile, kept.map((line) => `${line}\n`).join(''));
}
