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

/**
 * x [T,C], weight [C], bias [C] → y [T,C] (Ba et al. 2016).
 *
 * y = x̂·w + b, x̂ = (x − mean(x))·rstd, rstd = 1/√(variance(x) + eps)
 * dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), g = dy·w;  dw = Σ_t dy·x̂;  db = Σ_t dy
 */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor | undefined, eps: number): Tensor {
  checkShape('layerNorm', 'weight', weight, [x.shape[1]]);
  const backend = x.backend;
  const y = empty(backend, x.shape, x.dtype);
  const [mean, rstd] = [empty(backend, [x.shape[0]], 'f32'), empty(backend, [x.shape[0]], 'f32')];
  backend.run('layerNorm', { x, weight, bias }, { y, mean, rstd }, { eps });
  const vjp = (dy: Tensor, gradients: Gradients, gradientSoFar: Tensor | undefined) => {
    const dbias = bias?.requiresGrad ? addGradient(bias, gradients, (out) => backend.run('columnSum', { x: dy }, { out }, {})) : undefined;
    const dx = gradientSoFar ? overwritable(gradientSoFar) : empty(backend, x.shape, x.dtype);
    const backward = (dweight?: Tensor) =>
      backend.run('layerNormBackward', { x, weight, mean, rstd, dy, residual: gradientSoFar }, { dx, dweight }, {});
    if (weight.requiresGrad) return [dx, addGradient(weight, gradients, backward), dbias];
    backward();
    return [dx, undefined, dbias];
  };
  return record('layerNorm', [x, weight, bias], y, [x, weight, mean, rstd], vjp, true);
}
