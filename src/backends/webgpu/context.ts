import type { DType } from '../../core/dtype.js';
import type { OpAttributes, OpInputs, OpName, OpOutputs } from '../../core/ops.table.js';
import type { Constants, Dispatch, GpuOperand } from './kernel.js';

/** What an op's function has to work with. */
export interface GpuContext {
  dispatch<C extends Constants>(dispatch: Dispatch<C>): void;
  /** Memory for the time of the op. */
  scratch(dtype: DType, shape: readonly number[]): GpuOperand;
  /** Sees to it that the next `read` or `sync` fails if a number of `indices` is not in [least, limit). */
  checkIndices(indices: GpuOperand, least: number, limit: number): void;
  /** The same for the segments of attention. */
  checkSegments(segments: GpuOperand, queries: number, keys: number): void;
}

/** How an op is computed: checks its operands and enqueues kernels. */
export type GpuOp<K extends OpName> = (
  inputs: OpInputs<K, GpuOperand>,
  outputs: OpOutputs<K, GpuOperand>,
  attributes: OpAttributes<K>,
  context: GpuContext,
) => void;
export type GpuOps<K extends OpName> = { readonly [P in K]: GpuOp<P> };
