import type { Tensor } from '../core/tensor.js';
import { LowrankError } from '../util/errors.js';

/** Throws where a tensor has not the shape that an op needs; −1 stands for any size. Names the op and the parameter. */
export function checkShape(op: string, parameter: string, tensor: Tensor, shape: readonly number[]): void {
  const fits = tensor.shape.length === shape.length && shape.every((n, i) => n === -1 || n === tensor.shape[i]);
  if (fits) return;
  const wanted = shape.map((n) => (n === -1 ? '·' : n)).join(', ');
  throw new LowrankError(`${op}: ${parameter} has shape [${tensor.shape.join(', ')}]`, { expected: `[${wanted}]` });
}
