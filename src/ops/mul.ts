import { record } from '../core/tape.js';
import { empty, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';

/** a, b of one shape → a∘b in a's dtype, element by element. da = dy∘b, db = dy∘a. */
export function mul(a: Tensor, b: Tensor): Tensor {
  checkShape('mul', 'b', b, a.shape);
  const product = (x: Tensor, factor: Tensor, dtype = x.dtype): Tensor => {
    const out = empty(x.backend, x.shape, dtype);
    x.backend.run('mul', { a: x, b: factor }, { out }, {});
    return out;
  };
  return record('mul', [a, b], product(a, b), [a, b], (dy) => [
    a.requiresGrad ? product(dy, b, a.dtype) : undefined,
    b.requiresGrad ? product(dy, a, b.dtype) : undefined,
  ]);
}
