import { record } from '../core/tape.js';
import { type Tensor, zeros } from '../core/tensor.js';

/** y = factor·x. dx = factor·dy. */
export function scale(x: Tensor, factor: number): Tensor {
  const scaled = (from: Tensor): Tensor => {
    const to = zeros(from.backend, from.shape, from.dtype);
    from.backend.run('accumulate', { x: from }, { out: to }, { factor });
    return to;
  };
  return factor === 1 ? x : record('scale', [x], scaled(x), [], (dy) => [scaled(dy)]);
}
