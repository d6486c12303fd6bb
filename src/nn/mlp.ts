import type { Tensor } from '../core/tensor.js';
import { type ActivationKind, gated } from '../ops/index.js';
import type { ForwardOptions } from './context.js';
import type { Linear } from './layers.js';

/** The gated MLP: down(f(gate(x))·up(x)), width F inside. */
export class GatedMlp {
  readonly gate: Linear;
  readonly up: Linear;
  readonly down: Linear;
  readonly activation: ActivationKind;

  constructor(activation: ActivationKind, projections: { gate: Linear; up: Linear; down: Linear }) {
    this.activation = activation;
    this.gate = projections.gate;
    this.up = projections.up;
    this.down = projections.down;
  }

  /** x [T,C] → residual + MLP(x), which is `value` where it is known. */
  forward(x: Tensor, residual: Tensor, options: ForwardOptions, value?: Tensor): Tensor {
    const h = gated(this.gate.forward(x, options), this.up.forward(x, options), this.activation);
    return this.down.forward(h, options, { residual, value });
  }
}
