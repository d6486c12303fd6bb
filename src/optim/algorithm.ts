import type { Tensor } from '../core/tensor.js';
import type { Paging, StateMemory } from './state-memory.js';

/** Settings of all optimizers, by the names of recipes; each reads those that it has. */
export interface OptimizerOptions {
  adam_beta1: number;
  adam_beta2: number;
  adam_epsilon: number;
  weight_decay: number;
  /** Of the paged optimizers; without it their states stay in memory. */
  paging?: Paging;
}

/** What one update is told; `step` counts from 1. */
export interface Update {
  readonly gradient: Tensor;
  readonly lr: number;
  readonly step: number;
  readonly gradientScale: number;
}

/** One parameter under an algorithm. */
export interface Slot {
  /** By the words of the library whose algorithm it is. */
  readonly states: Readonly<Record<string, Tensor>>;
  update(update: Update): void;
}

/** Makes the slot of a parameter, its states zeros that `memory` owns. */
export type Algorithm = (parameter: Tensor, options: OptimizerOptions, bits: 8 | 32, memory: StateMemory) => Slot;
