import type { Tuner } from '../adapters/tuner.js';
import type { Backend } from '../core/backend.js';
import { scope } from '../core/scope.js';
import { Gradients, Tape, withoutTape } from '../core/tape.js';
import { fromArray, type Tensor, zeros } from '../core/tensor.js';
import type { ForwardOptions } from '../nn/context.js';
import type { CausalLM } from '../nn/model.js';
import { notFiniteWeight } from '../nn/not-finite.js';
import { type Balance, likeliestTokens, linearCrossEntropy } from '../ops/index.js';
import type { Optimizer } from '../optim/optimizer.js';
import { LowrankError } from '../util/errors.js';
import { eventLoopTurns } from '../util/event-loop.js';
import { type LabelledTokens, supervisedRows } from './batch.js';
import { crossEntropy } from './objectives/cross-entropy.js';
import type { Objective } from './objectives/objective.js';

export interface StepOptions {
  /** Default: cross-entropy. */
  objective?: Objective;
  learning_rate: number;
  /** Gradients are scaled down to this norm; 0 for never. */
  max_grad_norm: number;
  /** `offload_disk`: what is kept goes to `offloadFolder`. */
  gradient_checkpointing: boolean | 'offload_disk';
  offloadFolder?: string;
  /** The most micro-batches that a step of the run has; default: as many as this one. */
  gradient_accumulation_steps?: number;
  seed: number;
}

export interface StepResult {
  /** The objective's mean over the whole step: with cross-entropy over its supervised tokens. */
  loss: number;
  /** Of all gradients, before clipping. */
  grad_norm: number;
  supervised: number;
  tokens: number;
}

/**
 * One optimizer step over its micro-batches: forward, loss, backward, clipping, update. The loss is the sum of the objective's terms over
 * the whole step divided by their number, so that the split into micro-batches changes nothing but rounding. Between micro-batches the
 * event loop gets its turns.
 */
export async function trainStep(
  tuner: Tuner,
  optimizer: Optimizer,
  microBatches: readonly LabelledTokens[],
  options: StepOptions,
): Promise<StepResult> {
  const { backend } = tuner.model;
  const { objective = crossEntropy } = options;
  const place = `step ${optimizer.steps + 1}`;
  const supervised = microBatches.reduce((sum, { labels }) => sum + supervisedRows(labels).length, 0);
  const tokens = microBatches.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
  const terms = microBatches.reduce((sum, batch) => sum + objective.count(batch), 0);
  if (supervised === 0 || terms === 0)
    throw new LowrankError('no token is supervised', { place, mend: 'check the data set’s roles and lengths' });
  backend.mark?.('forward');
  const gradients = new Gradients();
  const sums = [zeros(backend, [1], 'f32', 'workspace'), zeros(backend, [1], 'f32', 'workspace')];
  const [lossSum, squares] = sums;
  const turn = eventLoopTurns();
  // An epoch's last step may have fewer micro-batches than the others: counted by the most, no pass of a run repeats another one's masks.
  const passes = Math.max(options.gradient_accumulation_steps ?? 0, microBatches.length);
  try {
    for (const [i, batch] of microBatches.entries()) {
      await turn();
      const { seed, gradient_checkpointing: checkpointing } = options;
      const dropout = { seed, step: optimizer.steps * passes + i };
      const offloadFolder = checkpointing === 'offload_disk' ? options.offloadFolder : undefined;
      const pass = { dropout, recompute: checkpointing !== false, offloadFolder };
      const sink = { scale: 1 / terms, share: batch.inputIds.length / tokens, gradients, lossSum };
      if (objective.weigh) await accumulateWeighted(tuner, batch, objective, pass, sink);
      else scope(() => accumulateGradients(tuner.model, batch, pass, sink));
    }
    backend.mark?.('update');
    for (const gradient of gradients.values()) backend.run('sumSquares', { x: gradient }, { out: squares }, {});
    const [[loss], [square]] = await Promise.all(sums.map((sum) => sum.toFloat32()));
    const norm = Math.sqrt(square);
    if (!Number.isFinite(loss) || !Number.isFinite(norm))
      throw (
        (await notFiniteWeight(tuner.model, trainedBefore(optimizer, tuner))) ??
        (await notFinite(backend, tuner.parameters(), gradients, loss, place))
      );
    const { max_grad_norm: limit } = options;
    // PyTorch's clip_grad_norm_ adds the same 1e-6.
    const gradientScale = limit > 0 ? Math.min(1, limit / (norm + 1e-6)) : 1;
    optimizer.step(gradients, options.learning_rate, gradientScale);
    return { loss, grad_norm: norm, supervised, tokens };
  } finally {
    gradients.clear();
    for (const sum of sums) sum.dispose();
  }
}

/**
 * Where a micro-batch's results go: `scale` times the sum of its terms is added to `lossSum` [1] f32, and that sum's gradient to
 * `gradients`; where there is a balancing loss, so is `share` times that, the micro-batch's part of the step's tokens.
 */
export interface StepSums {
  scale: number;
  share?: number;
  gradients: Gradients;
  lossSum: Tensor;
}

/** One micro-batch whose terms are its losses. */
export function accumulateGradients(
  model: CausalLM,
  batch: LabelledTokens,
  pass: ForwardOptions,
  { scale, share = 1, gradients, lossSum }: StepSums,
): void {
  const tape = new Tape();
  model.backend.mark?.('forward');
  const balance = balanceOf(model, batch, share);
  const hidden = tape.record(() => model.hidden(batch, { ...pass, balance }));
  addBalance(balance, lossSum);
  model.backend.mark?.('loss');
  const { losses, dx } = tokenLosses(model, hidden, batch.labels, pass, { scale, gradients });
  model.backend.run('sum', { x: losses }, { out: lossSum }, { factor: scale });
  model.backend.mark?.('backward');
  if (dx && hidden.requiresGrad) tape.backward(hidden, dx, gradients);
}

/**
 * One micro-batch whose terms depend on its losses, and perhaps on the base's: they are read before the weights of the gradient are known.
 */
async function accumulateWeighted(
  tuner: Tuner,
  batch: LabelledTokens,
  objective: Objective,
  pass: ForwardOptions,
  { scale, share = 1, gradients, lossSum }: StepSums,
): Promise<void> {
  const { model } = tuner;
  const { backend } = model;
  const lossesOf = (hidden: Tensor) => tokenLosses(model, hidden, batch.labels, pass).losses;
  const base = objective.needsReference ? tuner.withBase(() => scope(() => lossesOf(model.hidden(batch)))) : undefined;
  const reference = await base?.toFloat32();
  base?.dispose();
  const tape = new Tape();
  const balance = balanceOf(model, batch, share);
  let hidden: Tensor | undefined;
  try {
    hidden = scope(() => tape.record(() => model.hidden(batch, { ...pass, balance })));
    scope(() => addBalance(balance, lossSum));
    const output = hidden;
    const losses = scope(() => withoutTape(() => lossesOf(output)));
    const { value, weights } = objective.weigh!(await losses.toFloat32(), batch, reference);
    losses.dispose();
    scope(() => {
      backend.run('accumulate', { x: fromArray(backend, Float32Array.of(value)) }, { out: lossSum }, { factor: scale });
      const { dx } = tokenLosses(model, output, batch.labels, pass, { scale, gradients, weights });
      if (dx && output.requiresGrad) tape.backward(output, dx, gradients);
    });
  } finally {
    tape.clear();
    hidden?.dispose();
    balance?.counts.dispose();
    balance?.probabilities.dispose();
  }
}

/**
 * The balancing loss of a pass, as transformers' load_balancing_loss_func has it for all layers together: factor·E·Σ_e (counts/R)·(p/R),
 * R the tokens of a batch in all layers that have experts.
 */
function balanceOf(model: CausalLM, { inputIds }: LabelledTokens, share: number): Balance | undefined {
  const { mixtures, balanceFactor, backend } = model;
  if (!mixtures || !balanceFactor) return undefined;
  const rows = mixtures.layers * inputIds.length;
  const [counts, probabilities] = [0, 1].map(() => zeros(backend, [mixtures.experts], 'f32', 'workspace'));
  return { counts, probabilities, factor: (share * balanceFactor * mixtures.experts) / rows ** 2 };
}

/** Adds the balancing loss of a forward pass to a sum of losses. */
function addBalance(balance: Balance | undefined, lossSum: Tensor): void {
  if (!balance) return;
  const { counts, probabilities, factor } = balance;
  const products = zeros(lossSum.backend, counts.shape, 'f32', 'workspace');
  lossSum.backend.run('mul', { a: counts, b: probabilities }, { out: products }, {});
  lossSum.backend.run('sum', { x: products }, { out: lossSum }, { factor });
}

/** The losses [n] f32 of the supervised positions, and dx [T,C] where gradients are asked for. */
function tokenLosses(
  model: CausalLM,
  hidden: Tensor,
  labels: Int32Array,
  pass: ForwardOptions,
  { weights, ...training }: { scale?: number; gradients?: Gradients; weights?: Float32Array } = {},
): { losses: Tensor; dx?: Tensor } {
  const positions = supervisedRows(labels);
  const rows = fromArray(model.backend, positions);
  const targets = fromArray(
    model.backend,
    positions.map((row) => labels[row]),
  );
  return linearCrossEntropy(hidden, (x) => model.uncappedLogits(x, pass), {
    rows,
    targets,
    vocabulary: model.vocabulary,
    softcap: model.logitSoftcap,
    weights: weights && fromArray(model.backend, weights),
    ...training,
  });
}

/** Mean loss per supervised token over all batches, and its exponential. */
export async function evaluateLoss(
  model: CausalLM,
  batches: Iterable<LabelledTokens>,
  { signal, onBatch }: { signal?: AbortSignal; onBatch?: (done: number) => void } = {},
): Promise<{ loss: number; perplexity: number; tokens: number }> {
  const lossSum = zeros(model.backend, [1], 'f32', 'workspace');
  let tokens = 0;
  let done = 0;
  try {
    for (const batch of batches) {
      signal?.throwIfAborted();
      tokens += supervisedRows(batch.labels).length;
      scope(() => {
        const { losses } = tokenLosses(model, model.hidden(batch), batch.labels, {});
        model.backend.run('sum', { x: losses }, { out: lossSum }, { factor: 1 });
      });
      await model.backend.sync();
      onBatch?.(++done);
    }
    if (tokens === 0) throw new LowrankError('no token is supervised', { place: 'the evaluation data', mend: 'check the test data set' });
    const [sum] = await lossSum.toFloat32();
    if (!Number.isFinite(sum)) {
      const mend = 'check the base model and the adapter';
      throw (await notFiniteWeight(model)) ?? new LowrankError(`the loss is ${sum}`, { place: 'the evaluation data', mend });
    }
    return { loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens };
  } finally {
    lossSum.dispose();
  }
}

/** How many of the packed examples are answered; `examples` were looked at. */
export interface Answered {
  answered: number;
  examples: number;
}

/**
 * An example is answered where each of its supervised tokens is the likeliest one behind those before it, so that decoding greedily would
 * say all of them: one pass over a batch shows it, where generating takes one a token. Ends with the batch in which more than `misses` are
 * not.
 */
export async function countAnswered(
  model: CausalLM,
  batches: Iterable<LabelledTokens>,
  { misses = Number.POSITIVE_INFINITY, signal }: { misses?: number; signal?: AbortSignal } = {},
): Promise<Answered> {
  const count = { answered: 0, examples: 0 };
  for (const batch of batches) {
    signal?.throwIfAborted();
    const positions = supervisedRows(batch.labels);
    const likeliest = scope(() => {
      const rows = fromArray(model.backend, positions);
      return likeliestTokens(model.hidden(batch), (x) => model.logits(x), rows, model.vocabulary);
    });
    const tokens = await likeliest.toInt32();
    likeliest.dispose();
    const wrong = positions.filter((row, i) => tokens[i] !== batch.labels[row]);
    for (let s = 0; s < batch.segments.length; s += 4) {
      const [begin, end] = batch.segments.subarray(s, s + 2);
      count.examples++;
      if (!wrong.some((row) => begin <= row && row < end)) count.answered++;
    }
    if (count.examples - count.answered > misses) break;
  }
  return count;
}

/** What training itself may have made infinite, so that no file is to blame: once a step was made, the trained tensors. */
function trainedBefore({ steps }: Optimizer, tuner: Tuner): ReadonlySet<Tensor> {
  return new Set(steps === 0 ? [] : tuner.parameters().values());
}

/** Says where the first NaN or infinity is; reads every gradient's sum, which only a failing run pays for. */
async function notFinite(
  backend: Backend,
  parameters: ReadonlyMap<string, Tensor>,
  gradients: Gradients,
  loss: number,
  place: string,
): Promise<LowrankError> {
  const mend = 'lower learning_rate, set max_grad_norm, or check the base model and the data';
  if (!Number.isFinite(loss)) return new LowrankError(`the loss is ${loss}`, { place, mend });
  for (const [name, parameter] of parameters) {
    const gradient = gradients.get(parameter);
    if (!gradient) continue;
    const square = zeros(backend, [1], 'f32', 'workspace');
    backend.run('sumSquares', { x: gradient }, { out: square }, {});
    const [value] = await square.toFloat32();
    square.dispose();
    if (!Number.isFinite(value)) return new LowrankError(`the gradient of ${name} is not finite`, { place, mend });
  }
  return new LowrankError('the gradient norm overflows', { place, mend });
}
