import type { Tuner } from '../adapters/tuner.js';
import type { OptimizerOptions } from '../optim/algorithm.js';
import { createOptimizer, type Optimizer, type OptimizerName } from '../optim/optimizer.js';
import { learningRate, type ScheduleOptions } from '../optim/schedule.js';
import type { LabelledTokens } from './batch.js';
import { type StepOptions, type StepResult, trainStep } from './step.js';

export interface LoopOptions extends OptimizerOptions, ScheduleOptions, Omit<StepOptions, 'learning_rate'> {
  /** Optimizer steps of one epoch; `steps(epoch)` returns as many. */
  steps_per_epoch: number;
}

/** One optimizer step as it is logged; the names are those of LLaMA-Factory and transformers' Trainer. */
export interface StepRecord {
  /** From 1. */
  step: number;
  total_steps: number;
  epoch: number;
  loss: number;
  grad_norm: number;
  learning_rate: number;
  /** All tokens of the step, and those with a label. */
  tokens: number;
  supervised: number;
  seconds: number;
}

export interface Trainable {
  tuner: Tuner;
  optimizer: Optimizer;
}

export interface LoopHooks {
  /** When it fires, the loop ends after the step under way. */
  signal?: AbortSignal;
  onStep?: (record: StepRecord) => void | Promise<void>;
  /** Asked after each step; true makes it the last. */
  finished?: () => boolean;
  /** Runs each step: the place for measurements. */
  runStep?: (step: number, run: () => Promise<StepResult>) => Promise<StepResult>;
}

/** Creates the optimizer of a training run. */
export function createTrainable(tuner: Tuner, options: OptimizerOptions & { optimizer?: OptimizerName }): Trainable {
  return { tuner, optimizer: createOptimizer(options.optimizer ?? 'adamw_torch', tuner.parameters(), options) };
}

/**
 * Trains from the optimizer's step count up to `total_steps`. `steps(epoch)` gives the micro-batches of each optimizer step of an epoch;
 * it must depend on the epoch alone, so that a resumed run sees the same data.
 */
export async function trainLoop(
  { tuner, optimizer }: Trainable,
  steps: (epoch: number) => LabelledTokens[][],
  options: LoopOptions,
  { signal, onStep, finished, runStep = (_, run) => run() }: LoopHooks = {},
): Promise<{ steps: number; interrupted: boolean }> {
  const { total_steps, steps_per_epoch } = options;
  let epoch = -1;
  let ofEpoch: LabelledTokens[][] = [];
  while (optimizer.steps < total_steps) {
    if (signal?.aborted) return { steps: optimizer.steps, interrupted: true };
    const index = optimizer.steps;
    if (Math.floor(index / steps_per_epoch) !== epoch) {
      epoch = Math.floor(index / steps_per_epoch);
      ofEpoch = steps(epoch);
    }
    const rate = learningRate(index, options);
    const start = performance.now();
    const batches = ofEpoch[index % steps_per_epoch];
    const result = await runStep(index + 1, () => trainStep(tuner, optimizer, batches, { ...options, learning_rate: rate }));
    await onStep?.({
      ...result,
      step: index + 1,
      total_steps,
      epoch: (index + 1) / steps_per_epoch,
      learning_rate: rate,
      seconds: (performance.now() - start) / 1000,
    });
    if (finished?.()) break;
  }
  return { steps: optimizer.steps, interrupted: false };
}
