import type { Backend } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import { unscoped } from '../core/scope.js';
import { type Tensor, zeros } from '../core/tensor.js';

/**
 * Keys and values of `slots` sequences of at most `capacity` tokens each, per layer [slots·capacity, G·D]; sequence s owns rows from
 * s·capacity.
 */
export class KvCache {
  readonly capacity: number;
  private readonly layers: { k: Tensor; v: Tensor }[];

  constructor(backend: Backend, shape: { layers: number; slots: number; capacity: number; width: number; dtype: DType }) {
    this.capacity = shape.capacity;
    const make = () => zeros(backend, [shape.slots * shape.capacity, shape.width], shape.dtype);
    this.layers = unscoped(() => Array.from({ length: shape.layers }, () => ({ k: make(), v: make() })));
  }

  /** Stores the keys and values [T, G·D] of one layer at the given rows and returns all of them. */
  extend(layer: number, k: Tensor, v: Tensor, rows: Tensor): { k: Tensor; v: Tensor } {
    const cached = this.layers[layer];
    k.backend.run('writeRows', { x: k, rows }, { out: cached.k }, {});
    k.backend.run('writeRows', { x: v, rows }, { out: cached.v }, {});
    return cached;
  }

  dispose(): void {
    for (const { k, v } of this.layers) {
      k.dispose();
      v.dispose();
    }
  }
}
