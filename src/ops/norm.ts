import { addGradient, type Gradients, record } from '../core/tape.js';
import { empty, overwritable, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';

/**
 * x [T,C], weight [C] → y [T,C]. `offset` is added to the weight (1 for Gemma).
 *
 * y = x̂·(w + offset), x̂ = x·rstd, rstd = 1/√(mean(x²) + eps)
 * dx = rstd·(g − x̂·mean(g·x̂)), g = dy·(w + offset);  dw = Σ_t dy·x̂
 */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number, offset = 0): Tensor {
  checkShape('rmsNorm', 'weight', weight, [x.shape[1]]);
  const backend = x.backend;
  const y = empty(backend, x.shape, x.dtype);
  const rstd = empty(backend, [x.shape[0]], 'f32');
  backend.run('rmsNorm', { x, weight }, { y, rstd }, { eps, offset });
  const vjp = (dy: Tensor, gradients: Gradients, gradientSoFar: Tensor | undefined) => {
    const dx = gradientSoFar ? overwritable(gradientSoFar) : empty(backend, x.shape, x.dtype);
    const backward = (dweight?: Tensor) =>
      backend.run('rmsNormBackward', { x, weight, rstd, dy, residual: gradientSoFar }, { dx, dweight }, { offset });
    if (weight.requiresGrad) return [dx, addGradient(weight, gradients, backward)];
    backward();
    return [dx];
  };
  return record('rmsNorm', [x, weight], y, [x, weight, rstd], vjp, true);
}
