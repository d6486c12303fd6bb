import { record } from '../core/tape.js';
import { empty, overwritable, type Tensor, zeros } from '../core/tensor.js';
import { LowrankError } from '../util/errors.js';

/**
 * x [T,N] → its columns [first, first + width), [T,width]: the parts of a fused projection.
 *
 * dx is dy in those columns and 0 elsewhere.
 */
export function columns(x: Tensor, first: number, width: number): Tensor {
  const { backend } = x;
  const [rows, all] = x.shape;
  if (first < 0 || first + width > all) throw new LowrankError(`columns: ${first} … ${first + width} of a tensor with ${all}`);
  const y = empty(backend, [rows, width], x.dtype);
  backend.run('slice', { x }, { out: y }, { row: 0, column: first });
  const vjp = (dy: Tensor, _: unknown, gradientSoFar: Tensor | undefined) => {
    const dx = gradientSoFar ? overwritable(gradientSoFar) : zeros(backend, x.shape, x.dtype);
    if (gradientSoFar && dx.storage !== gradientSoFar.storage) backend.run('cast', { x: gradientSoFar }, { out: dx }, {});
    backend.run('place', { x: dy }, { out: dx }, { row: 0, column: first, accumulate: true });
    return [dx];
  };
  return record('columns', [x], y, [], vjp, true);
}
