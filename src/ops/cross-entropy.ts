import { scope } from '../core/scope.js';
import { type Gradients, Tape, withoutTape } from '../core/tape.js';
import { empty, type Tensor, zeros } from '../core/tensor.js';
import { checkShape } from './check.js';

/** Elements of one chunk of logits: 128 MiB in f32, whatever the vocabulary; fewer rows would not pay for reading the head's matrix. */
const chunkElements = 2 ** 25;

export interface CrossEntropyOptions {
  /** The supervised positions of x, ascending, [n] i32. */
  rows: Tensor;
  /** The token to be predicted at each of them, [n] i32. */
  targets: Tensor;
  /** V, the number of logits per position. */
  vocabulary: number;
  /** A factor of each position's gradient, [n] f32; 1 where absent. The losses stay as they are. */
  weights?: Tensor;
  /** What `project` gives stands for softcap·tanh of it divided by softcap; 0, as by default, for no cap. */
  softcap?: number;
  /** Factor of the gradient: 1 / the number of supervised tokens of the whole optimizer step. */
  scale?: number;
  /** Takes the gradients of the head's parameters; without it only the losses are computed. */
  gradients?: Gradients;
}

/**
 * Projection to the vocabulary, softmax, cross-entropy and their gradient in one pass over chunks of the supervised positions, so that
 * the logits of a chunk are all that ever exists (as Cut Cross-Entropy, Wijmans et al. 2024, and Liger Kernel do it).
 *
 * x [T,C]; `project` maps [n,C] to logits [n,V] f32 → losses [n] f32 (−log p of each target) and, where gradients are asked for,
 * dx [T,C] of scale·Σ weights·losses (zero at positions without supervision).
 */
export function linearCrossEntropy(
  x: Tensor,
  project: (x: Tensor) => Tensor,
  { rows, targets, vocabulary, weights, softcap = 0, scale = 1, gradients }: CrossEntropyOptions,
): { losses: Tensor; dx?: Tensor } {
  checkShape('linearCrossEntropy', 'targets', targets, rows.shape);
  if (weights) checkShape('linearCrossEntropy', 'weights', weights, rows.shape);
  const backend = x.backend;
  const [count] = rows.shape;
  const losses = empty(backend, [count], 'f32');
  const dx = gradients && zeros(backend, x.shape, x.dtype);
  eachChunk(x, rows, vocabulary, (chunk, chunkRows, start, n) => {
    chunk.requiresGrad = true;
    const tape = new Tape();
    const logits = gradients ? tape.record(() => project(chunk)) : withoutTape(() => project(chunk));
    const operands = { logits, labels: targets.rows(start, n), weights: weights?.rows(start, n) };
    const outputs = { losses: losses.rows(start, n) };
    if (!gradients || !dx) {
      backend.run('crossEntropy', operands, outputs, { scale, softcap });
      return;
    }
    backend.run('crossEntropy', operands, { ...outputs, gradient: logits }, { scale, softcap });
    tape.backward(logits, logits, gradients);
    const dchunk = gradients.take(chunk);
    if (dchunk) backend.run('writeRows', { x: dchunk, rows: chunkRows }, { out: dx }, {});
  });
  return { losses, dx };
}

/** The token with the highest logit at each of the positions `rows` [n] i32 of x [T,C], in the same way → [n] i32. */
export function likeliestTokens(x: Tensor, project: (x: Tensor) => Tensor, rows: Tensor, vocabulary: number): Tensor {
  const tokens = empty(x.backend, rows.shape, 'i32');
  eachChunk(x, rows, vocabulary, (chunk, _, start, n) => {
    x.backend.run('argmax', { x: withoutTape(() => project(chunk)) }, { index: tokens.rows(start, n) }, {});
  });
  return tokens;
}

/**
 * Calls `use` with some of the rows of x after others, each time in a scope of its own: chunk [n,C], chunkRows [n], where they start in
 * `rows`.
 */
function eachChunk(
  x: Tensor,
  rows: Tensor,
  vocabulary: number,
  use: (chunk: Tensor, chunkRows: Tensor, start: number, n: number) => void,
): void {
  const [count, width] = [rows.shape[0], x.shape[1]];
  const most = Math.max(1, Math.floor(chunkElements / vocabulary));
  const step = Math.ceil(count / Math.ceil(count / most));
  for (let start = 0; start < count; start += step) {
    const n = Math.min(step, count - start);
    scope(() => {
      const chunkRows = rows.rows(start, n);
      const chunk = empty(x.backend, [n, width], x.dtype);
      x.backend.run('gatherRows', { x, rows: chunkRows }, { out: chunk }, {});
      use(chunk, chunkRows, start, n);
    });
  }
}
