import { record } from '../core/tape.js';
import { empty, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';

/** a, b of one shape → a + b in a's dtype; the residual connection. da = db = dy. */
export function add(a: Tensor, b: Tensor): Tensor {
  checkShape('add', 'b', b, a.shape);
  const y = empty(a.backend, a.shape, a.dtype);
  a.backend.run('add', { a, b }, { out: y }, {});
  return record('add', [a, b], y, [], (dy) => [dy, dy]);
}
