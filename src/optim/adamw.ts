import { unscoped } from '../core/scope.js';
import type { Gradients } from '../core/tape.js';
import { type Tensor, zeros } from '../core/tensor.js';

export interface AdamWOptions {
  adam_beta1: number;
  adam_beta2: number;
  adam_epsilon: number;
  weight_decay: number;
}

/** AdamW with f32 states, as torch.optim.AdamW computes it. */
export class AdamW {
  readonly options: AdamWOptions;
  private readonly parameters: ReadonlyMap<string, Tensor>;
  private readonly states: ReadonlyMap<Tensor, { m: Tensor; v: Tensor }>;
  /** Updates done. */
  steps = 0;

  constructor(parameters: ReadonlyMap<string, Tensor>, options: AdamWOptions) {
    this.parameters = parameters;
    this.options = options;
    const state = (p: Tensor) => zeros(p.backend, p.shape, 'f32', 'optimizer');
    this.states = unscoped(() => new Map([...parameters.values()].map((p) => [p, { m: state(p), v: state(p) }])));
  }

  /** One update of every parameter that has a gradient; `gradientScale` is the factor of clipping. */
  step(gradients: Gradients, learningRate: number, gradientScale: number): void {
    this.steps++;
    const { adam_beta1: beta1, adam_beta2: beta2, adam_epsilon: eps, weight_decay: weightDecay } = this.options;
    for (const [parameter, { m, v }] of this.states) {
      const gradient = gradients.get(parameter);
      if (!gradient) continue;
      const attributes = { lr: learningRate, beta1, beta2, eps, weightDecay, step: this.steps, gradientScale };
      parameter.backend.run('adamw', { gradient }, { parameter, m, v }, attributes);
    }
  }

  /** The states under the parameters' names: `exp_avg.<name>` and `exp_avg_sq.<name>`, torch's words. */
  tensors(): Map<string, Tensor> {
    const result = new Map<string, Tensor>();
    for (const [name, parameter] of this.parameters) {
      const state = this.states.get(parameter);
      if (!state) continue;
      result.set(`exp_avg.${name}`, state.m);
      result.set(`exp_avg_sq.${name}`, state.v);
    }
    return result;
  }

  dispose(): void {
    for (const { m, v } of this.states.values()) {
      m.dispose();
      v.dispose();
    }
  }
}
