import type { OptimizerName } from '../optim/optimizer.js';
import { linearLayers, type ModelShape } from './shape.js';

export const methods = ['full', 'lora', 'qlora'] as const;
export type Method = (typeof methods)[number];

/** How the matrices of linear layers are kept; embedding, head and vectors follow `precision`. */
export const weightFormats = ['f32', 'bf16', 'nf4', 'nf4-double', 'fp4', 'fp4-double', 'int8'] as const;
export type WeightFormat = (typeof weightFormats)[number];

/** What decides how much memory and time a training step takes. Plain data; `train/plan.ts` makes it from a recipe. */
export interface PlanInput {
  readonly shape: ModelShape;
  readonly method: Method;
  readonly weights: WeightFormat;
  /** Of activations: `bf16`, or f32. */
  readonly precision: 'bf16' | 'fp32';
  /** The rank of each linear layer that has an adapter, by path. */
  readonly ranks: Readonly<Record<string, number>>;
  /** Embedding and head by path where an adapter trains them whole, in f32 copies. */
  readonly saved: readonly string[];
  readonly dropout: boolean;
  readonly optimizer: OptimizerName;
  /** Bytes above which paged optimizers put their states on the disk. */
  readonly memory_limit?: number;
  readonly gradient_checkpointing: boolean;
  /** More than one keeps all gradients while the next micro-batch runs. */
  readonly gradient_accumulation_steps: number;
  /** The largest micro-batch: the tokens of each of its examples, and how many positions of all are supervised. */
  readonly examples: readonly number[];
  readonly supervised: number;
}

/** What the plan needs to know of the machine. */
export interface PlanMachine {
  readonly threads: number;
  /** Whether products of bf16 have an instruction of their own, so that packed factors take 2 bytes an element instead of 4. */
  readonly pairs: boolean;
  /** Bytes that a process can have. */
  readonly memory?: number;
  /** GFLOP/s of all threads out of registers. */
  readonly peak?: { readonly bf16: number; readonly f32: number };
}

export const bytesOf = { f32: 4, bf16: 2 } as const;

/** Bytes of an activation's element. */
export const activationBytes = ({ precision }: PlanInput) => (precision === 'bf16' ? bytesOf.bf16 : bytesOf.f32);

/** Ranks for linear layers whose names end with one of `targets`, or for all of them but the head. */
export function ranksFor(shape: ModelShape, targets: 'all-linear' | readonly string[], rank: number): Record<string, number> {
  const chosen = linearLayers(shape).filter(({ path }) => targets === 'all-linear' || targets.some((end) => path.endsWith(`.${end}`)));
  return Object.fromEntries(chosen.map(({ path }) => [path, rank]));
}
