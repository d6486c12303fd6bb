import { record } from '../core/tape.js';
import { empty, overwritable, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';

/** The nonlinearities of gated MLPs; `gelu_tanh` is Hugging Face's `gelu_pytorch_tanh`. */
export const activationKinds = ['silu', 'gelu_tanh', 'gelu'] as const;
export type ActivationKind = (typeof activationKinds)[number];

/**
 * gate, up [T,F] → h [T,F] (SwiGLU, GeGLU; Shazeer 2020).
 *
 * h = f(gate)·up;  dgate = dh·up·f′(gate), dup = dh·f(gate)
 */
export function gated(gate: Tensor, up: Tensor, activation: ActivationKind): Tensor {
  checkShape('gated', 'up', up, gate.shape);
  const backend = gate.backend;
  const kind = activationKinds.indexOf(activation);
  const h = empty(backend, gate.shape, gate.dtype);
  if (backend.supports('gated')) {
    backend.run('gated', { gate, up }, { out: h }, { kind });
  } else {
    const active = empty(backend, gate.shape, gate.dtype);
    backend.run('activation', { x: gate }, { y: active }, { kind });
    backend.run('mul', { a: active, b: up }, { out: h }, {});
  }
  return record('gated', [gate, up], h, [gate, up], (dh) => {
    if (backend.supports('gatedBackward')) {
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
