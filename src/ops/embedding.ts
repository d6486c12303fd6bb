import { addGradient, record } from '../core/tape.js';
import { empty, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';

/**
 * ids [T] i32, weight [V,C] → y [T,C] in weight's dtype (or `dtype`).
 *
 * y[t] = weight[ids[t]];  dweight[v] = Σ_{t: ids[t]=v} dy[t]
 */
export function embedding(ids: Tensor, weight: Tensor, dtype = weight.dtype): Tensor {
  checkShape('embedding', 'ids', ids, [-1]);
  const backend = weight.backend;
  const y = empty(backend, [ids.shape[0], weight.shape[1]], dtype);
  backend.run('gatherRows', { x: weight, rows: ids }, { out: y }, {});
  return record('embedding', [weight], y, [ids], (dy, gradients) => [
    addGradient(weight, gradients, (out) => backend.run('addRows', { x: dy, rows: ids }, { out }, {})),
  ]);
}
