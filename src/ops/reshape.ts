import { record } from '../core/tape.js';
import type { Tensor } from '../core/tensor.js';

/** The elements of x in another shape of equal size, in x's memory. dx = dy in x's shape. */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  return record('reshape', [x], x.alias(shape), [], (dy) => [dy.alias(x.shape)]);
}
