import { fuses } from '../core/capabilities.js';
import type { ActivationKind } from '../core/ops.table.js';
import { record } from '../core/tape.js';
import { empty, overwritable, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';

/**
 * gate, up [T,F] → h [T,F] (SwiGLU, GeGLU; Shazeer 2020).
 *
 * h = f(gate)·up;  dgate = dh·up·f′(gate), dup = dh·f(gate)
 */
export function gated(gate: Tensor, up: Tensor, kind: ActivationKind): Tensor {
  checkShape('gated', 'up', up, gate.shape);
  const backend = gate.backend;
  const h = empty(backend, gate.shape, gate.dtype);
  if (fuses(backend, 'gated')) {
    backend.run('gated', { gate, up }, { out: h }, { kind });
  } else {
    const active = empty(backend, gate.shape, gate.dtype);
    backend.run('activation', { x: gate }, { y: active }, { kind });
    backend.run('mul', { a: active, b: up }, { out: h }, {});
  }
  return record('gated', [gate, up], h, [gate, up], (dh) => {
    if (fuses(backend, 'gatedBackward')) {
      const dgate = overwritable(gate);
      const dup = overwritable(up);
      backend.run('gatedBackward', { gate, up, dout: dh }, { dgate, dup }, { kind });
      return [dgate, dup];
    }
    const dactive = empty(backend, gate.shape, gate.dtype);
    backend.run('mul', { a: dh, b: up }, { out: dactive }, {});
    const dgate = empty(backend, gate.shape, gate.dtype);
    backend.run('activationBackward', { x: gate, dy: dactive }, { dx: dgate }, { kind });
    const dup = empty(backend, up.shape, up.dtype);
    backend.run('activation', { x: gate }, { y: dup }, { kind });
    backend.run('mul', { a: dup, b: dh }, { out: dup }, {});
    return [dgate, dup];
  });
}
