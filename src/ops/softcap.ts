import { record } from '../core/tape.js';
import { empty, type Tensor } from '../core/tensor.js';

/** y = cap·tanh(x/cap), numbers kept within ±cap; x itself where the cap is 0. dx = dy·(1 − tanh²(x/cap)). */
export function softcap(x: Tensor, cap: number): Tensor {
  if (cap === 0) return x;
  const y = empty(x.backend, x.shape, x.dtype);
  x.backend.run('softcap', { x }, { y }, { cap });
  return record('softcap', [x], y, [x], (dy) => {
    const dx = empty(x.backend, x.shape, x.dtype);
    x.backend.run('softcapBackward', { x, dy }, { dx }, { cap });
    return [dx];
  });
}
