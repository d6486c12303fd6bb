import type { Tensor } from '../core/tensor.js';
import { type ActivationKind, activation, columns, gated } from '../ops/index.js';
import type { ForwardOptions } from './context.js';
import type { Linear } from './layers.js';

/** The projections of x: one each, or one whose columns are both. */
export type MlpProjections = ({ gate: Linear; up: Linear } | { gateUp: Linear }) & { down: Linear };

/** The gated MLP: down(f(gate(x))·up(x)), width F inside. */
export class GatedMlp {
  private readonly projections: MlpProjections;
  private readonly activation: ActivationKind;

  constructor(activation: ActivationKind, projections: MlpProjections) {
    this.activation = activation;
    this.projections = projections;
  }

  /** x [T,C] → (residual +) MLP(x), which is `kept` where an earlier pass has kept it. */
  forward(x: Tensor, residual: Tensor | undefined, pass: ForwardOptions, kept?: Tensor): Tensor {
    const [gate, up] = this.project(x, pass);
    return this.projections.down.forward(gated(gate, up, this.activation), pass, { residual, kept });
  }

  private project(x: Tensor, pass: ForwardOptions): [gate: Tensor, up: Tensor] {
    const { projections } = this;
    if (!('gateUp' in projections)) return [projections.gate.forward(x, pass), projections.up.forward(x, pass)];
    const fused = projections.gateUp.forward(x, pass);
    const F = fused.shape[1] / 2;
    return [columns(fused, 0, F), columns(fused, F, F)];
  }
}

/** The MLP without a gate: down(f(up(x))). */
export class Mlp {
  private readonly projections: { up: Linear; down: Linear };
  private readonly activation: ActivationKind;

  constructor(kind: ActivationKind, projections: { up: Linear; down: Linear }) {
    this.activation = kind;
    this.projections = projections;
  }

  /** x [T,C] → (residual +) MLP(x), which is `kept` where an earlier pass has kept it. */
  forward(x: Tensor, residual: Tensor | undefined, pass: ForwardOptions, kept?: Tensor): Tensor {
    const { up, down } = this.projections;
    return down.forward(activation(up.forward(x, pass), this.activation), pass, { residual, kept });
  }
}
