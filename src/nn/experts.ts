import type { Tensor } from '../core/tensor.js';
import {
  type ActivationKind,
  combineRows,
  dispatchRows,
  type ExpertLinear,
  gated,
  groupedLinear,
  type RouteOptions,
  route,
} from '../ops/index.js';
import { LowrankError } from '../util/errors.js';
import type { ForwardOptions } from './context.js';
import type { Linear } from './layers.js';

/** One of the MLPs of a mixture; no biases. */
export interface Expert {
  readonly gate: Linear;
  readonly up: Linear;
  readonly down: Linear;
}

export interface MixtureParts extends Pick<RouteOptions, 'k' | 'normalize'> {
  /** Its E outputs say how well each expert fits a token. */
  readonly router: Linear;
  readonly experts: readonly Expert[];
  readonly activation: ActivationKind;
}

/**
 * A mixture of E gated MLPs, of which k answer for each token: Σ w·down(f(gate(x))·up(x)). Tokens are put into the order of their experts
 * on the device, so that no number is read back.
 */
export class MixtureOfExperts {
  private readonly parts: MixtureParts;

  constructor(parts: MixtureParts) {
    this.parts = parts;
  }

  /** x [T,C] → (residual +) what the experts say. `kept`: an earlier pass has done the same. */
  forward(x: Tensor, residual: Tensor | undefined, pass: ForwardOptions, kept?: Tensor): Tensor {
    const { router, experts, activation, k, normalize } = this.parts;
    const logits = router.forward(x, pass, { dtype: 'f32' });
    const routing = route(logits, { k, normalize, balance: pass.balance, counted: kept !== undefined });
    const rows = dispatchRows(x, routing);
    const through = (input: Tensor, name: keyof Expert) =>
      groupedLinear(
        input,
        routing.groups,
        experts.map((expert) => partsOf(expert[name])),
      );
    return combineRows(through(gated(through(rows, 'gate'), through(rows, 'up'), activation), 'down'), routing, residual);
  }
}

/** The tensors of an expert's layer, with what stands in its slot. */
function partsOf({ weight, adapter }: Linear): ExpertLinear {
  if (!adapter) return { weight };
  const lora = adapter.branch?.();
  if (lora) return { weight, lora };
  throw new LowrankError('this kind of adapter cannot stand in an expert’s layer', {
    place: 'target_modules',
    mend: 'leave the experts out, or use LoRA',
  });
}
