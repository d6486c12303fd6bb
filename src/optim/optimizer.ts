import { requireOps } from '../core/capabilities.js';
import type { OpName } from '../core/ops.table.js';
import { unscoped } from '../core/scope.js';
import type { Gradients } from '../core/tape.js';
import type { Tensor } from '../core/tensor.js';
import { LowrankError, nearest } from '../util/errors.js';
import { adafactor } from './adafactor.js';
import { adamw } from './adamw.js';
import type { Algorithm, OptimizerOptions, Slot } from './algorithm.js';
import { lion } from './lion.js';
import { sgd } from './sgd.js';
import { StateMemory } from './state-memory.js';

/** Updates trainable parameters (f32) from their gradients. */
export interface Optimizer {
  /** Updates done. */
  steps: number;
  /** One update of every parameter that has a gradient; `gradientScale` is the factor of clipping. */
  step(gradients: Gradients, learningRate: number, gradientScale: number): void;
  /** The states for checkpoints, f32 or u8, under `<state>.<parameter>`; the caller may write them to go on from there. */
  tensors(): Map<string, Tensor>;
  /** Frees the states. The parameters stay. */
  dispose(): void;
}

const algorithms = { adamw, lion, sgd, adafactor } as const satisfies Record<string, Algorithm>;

interface Choice {
  readonly algorithm: keyof typeof algorithms;
  /** Of the states of large parameters. */
  readonly bits: 8 | 32;
  /** Whether states of 1e5 elements and more may leave the memory. */
  readonly paged?: true;
}

/**
 * The names of transformers' `optim` and Axolotl's `optimizer`. `adamw_torch_8bit` is torchao's there; here it is another name of
 * `adamw_bnb_8bit`, whose states have the same size but not the same codes. `lion_pytorch` takes adam_beta1 and adam_beta2 like the others.
 */
export const optimizers = {
  adamw_torch: { algorithm: 'adamw', bits: 32 },
  adamw_torch_fused: { algorithm: 'adamw', bits: 32 },
  adamw_bnb_8bit: { algorithm: 'adamw', bits: 8 },
  adamw_torch_8bit: { algorithm: 'adamw', bits: 8 },
  paged_adamw_32bit: { algorithm: 'adamw', bits: 32, paged: true },
  paged_adamw_8bit: { algorithm: 'adamw', bits: 8, paged: true },
  lion_pytorch: { algorithm: 'lion', bits: 32 },
  lion_8bit: { algorithm: 'lion', bits: 8 },
  paged_lion_8bit: { algorithm: 'lion', bits: 8, paged: true },
  adafactor: { algorithm: 'adafactor', bits: 32 },
  sgd: { algorithm: 'sgd', bits: 32 },
} as const satisfies Record<string, Choice>;

/** Names of optimizers, as transformers has them. */
export type OptimizerName = keyof typeof optimizers;

/** Names that transformers' Trainer exempts from weight decay (Trainer.get_decay_parameter_names): biases and the weights of norms. */
const undecayed = /bias|layernorm|rmsnorm|(^|\.)norm($|\.)|_norm($|\.)/i;

/** The ops of an optimizer; small parameters keep states of 32 bits under every one. */
function opsOf({ algorithm, bits }: Choice): OpName[] {
  const inEightBits = bits === 8 && (algorithm === 'adamw' || algorithm === 'lion');
  return inEightBits ? [algorithm, `${algorithm}8bit`] : [algorithm];
}

/**
 * The optimizer of a recipe for parameters by name, with states of zeros. Throws where it is unknown, or where the parameters' backend
 * lacks its ops.
 */
export function createOptimizer(name: OptimizerName, parameters: ReadonlyMap<string, Tensor>, options: OptimizerOptions): Optimizer {
  if (!Object.hasOwn(optimizers, name)) {
    const near = nearest(name, Object.keys(optimizers));
    throw new LowrankError(`the optimizer "${name}" is unknown`, {
      place: 'optimizer',
      expected: Object.keys(optimizers).join(', '),
      mend: near ? `write "${near}"` : 'choose one of these',
    });
  }
  const choice: Choice = optimizers[name];
  const [first] = parameters.values();
  if (first) requireOps(first.backend, opsOf(choice), `optimizer ${name}`, 'choose adamw_torch, which every backend has');
  return new SlotOptimizer(parameters, options, choice);
}

class SlotOptimizer implements Optimizer {
  steps = 0;
  private readonly memory: StateMemory;
  private readonly slots = new Map<string, { parameter: Tensor; slot: Slot }>();

  constructor(parameters: ReadonlyMap<string, Tensor>, options: OptimizerOptions, { algorithm, bits, paged }: Choice) {
    this.memory = new StateMemory(paged && options.paging);
    const make: Algorithm = algorithms[algorithm];
    try {
      unscoped(() => {
        for (const [name, parameter] of parameters) {
          const own = undecayed.test(name) ? { ...options, weight_decay: 0 } : options;
          this.slots.set(name, { parameter, slot: make(parameter, own, bits, this.memory) });
        }
      });
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  step(gradients: Gradients, lr: number, gradientScale: number): void {
    this.steps++;
    for (const { parameter, slot } of this.slots.values()) {
      const gradient = gradients.get(parameter);
      if (!gradient) continue;
      slot.update({ gradient, lr, step: this.steps, gradientScale });
      for (const state of Object.values(slot.states)) this.memory.release(state);
    }
  }

  tensors(): Map<string, Tensor> {
    const result = new Map<string, Tensor>();
    for (const [name, { slot }] of this.slots) {
      for (const [state, tensor] of Object.entries(slot.states)) result.set(`${state}.${name}`, tensor);
    }
    return result;
  }

  dispose(): void {
    this.memory.dispose();
  }
}
