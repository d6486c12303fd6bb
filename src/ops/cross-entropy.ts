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
 * dx [T,C] of scale·Σ losses (zero at positions without supervision).
 */
export function linearCrossEntropy(
  x: Tensor,
  project: (x: Tensor) => Tensor,
  { rows, targets, vocabulary, scale = 1, gradients }: CrossEntropyOptions,
): { losses: Tensor; dx?: Tensor } {
  checkShape('linearCrossEntropy', 'targets', targets, rows.shape);
  const backend = x.backend;
  const [count, width] = [rows.shape[0], x.shape[1]];
  const losses = empty(backend, [count], 'f32');
  const dx = gradients && zeros(backend, x.shape, x.dtype);
  const most = Math.max(1, Math.floor(chunkElements / vocabulary));
  const step = Math.ceil(count / Math.ceil(count / most));
  for (let start = 0; start < count; start += step) {
    const n = Math.min(step, count - start);
    scope(() => {
      const chunkRows = rows.rows(start, n);
      const chunk = empty(backend, [n, width], x.dtype);
      backend.run('gatherRows', { x, rows: chunkRows }, { out: chunk }, {});
      chunk.requiresGrad = true;
      const tape = new Tape();
      const logits = gradients ? tape.record(() => project(chunk)) : withoutTape(() => project(chunk));
      const operands = { logits, labels: targets.rows(start, n) };
      const outputs = { losses: losses.rows(start, n) };
      if (!gradients || !dx) {
        backend.run('crossEntropy', operands, outputs, { scale });
        return;
      }
      backend.run('crossEntropy', operands, { ...outputs, gradient: logits }, { scale });
      tape.backward(logits, logits, gradients);
      const dchunk = gradients.take(chunk);
      if (dchunk) backend.run('writeRows', { x: dchunk, rows: chunkRows }, { out: dx }, {});
    });
  }
  return { losses, dx };
}
