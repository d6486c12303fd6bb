import type { Tensor } from '../core/tensor.js';
import type { CausalLM } from '../nn/model.js';

/** Numbers of parameters, as PEFT's print_trainable_parameters has them. */
export interface ParameterCount {
  trainable: number;
  all: number;
  percent: number;
}

/** What is trained of a model: an adapter beside its weights, or the weights themselves. */
export interface Tuner {
  readonly model: CausalLM;
  /** The trained tensors, f32, under the names that files give them. */
  parameters(): Map<string, Tensor>;
  /** How many numbers are trained, of how many. */
  count(): ParameterCount;
  /** Runs `body` on the model as it was before it was tuned; throws where that is gone. */
  withBase<R>(body: () => R): R;
  /** Ends the training; an adapter leaves the model as it was. */
  dispose(): void;
}
