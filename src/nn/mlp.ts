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

  /** x [T,C] → (residual +) MLP(x), which is `kept` where an earlier pass has kept it. */
  forward(x: Tensor, residual: Tensor | undefined, pass: ForwardOptions, kept?: Tensor): Tensor {
    const h = gated(this.gate.forward(x, pass), this.up.forward(x, pass), this.activation);
    return this.down.forward(h, pass, { residual, kept });
  }
}
