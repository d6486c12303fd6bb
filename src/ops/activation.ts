import type { ActivationKind } from '../core/ops.table.js';
import { record } from '../core/tape.js';
import { empty, overwritable, type Tensor } from '../core/tensor.js';

/** x [T,F] → y = f(x). dx = dy·f′(x). */
export function activation(x: Tensor, kind: ActivationKind): Tensor {
  const { backend } = x;
  const y = empty(backend, x.shape, x.dtype);
  backend.run('activation', { x }, { y }, { kind });
  return record('activation', [x], y, [x], (dy) => {
    const dx = overwritable(dy);
    backend.run('activationBackward', { x, dy }, { dx }, { kind });
    return [dx];
  });
}
