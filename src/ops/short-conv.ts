import { addGradient, type Gradients, record } from '../core/tape.js';
import { empty, type Tensor } from '../core/tensor.js';
import type { Segments } from './attention.js';
import { checkShape } from './check.js';

/** The last inputs of sequences whose tokens come in several passes: [slots·(K−1), C], each slot with keys from slot·capacity on. */
export interface ConvState {
  readonly rows: Tensor;
  readonly capacity: number;
}

/**
 * Causal convolution of each column by itself over packed examples: x [T,C], weight [C,K] → y [T,C]. With a state, examples go on where
 * earlier passes ended; that is not differentiable.
 *
 * y[t] = Σ_j w[:,j]∘x[t−K+1+j];  dx[t] = Σ_j w[:,j]∘dy[t+K−1−j], dw[:,j] = Σ_t dy[t]∘x[t−K+1+j]
 */
export function shortConv(x: Tensor, weight: Tensor, { table }: Segments, state?: ConvState): Tensor {
  const backend = x.backend;
  const taps = weight.view([weight.shape[0], weight.size / weight.shape[0]]);
  checkShape('shortConv', 'weight', taps, [x.shape[1], -1]);
  const y = empty(backend, x.shape, x.dtype);
  backend.run('shortConv', { x, weight: taps, segments: table }, { y, state: state?.rows }, { capacity: state?.capacity ?? 1 });
  return record('shortConv', [x, weight], y, [x, weight, table], (dy, gradients: Gradients) => {
    const dx = empty(backend, x.shape, x.dtype);
    const backward = (dweight?: Tensor) =>
      backend.run('shortConvBackward', { x, weight: taps, dy, segments: table }, { dx, dweight: dweight?.view(taps.shape) }, {});
    if (weight.requiresGrad) return [dx, addGradient(weight, gradients, backward)];
    backward();
    return [dx];
  });
}
