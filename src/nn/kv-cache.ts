import type { Backend } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import { unscoped } from '../core/scope.js';
import { type Tensor, zeros } from '../core/tensor.js';
import type { ConvState } from '../ops/index.js';

/** What `slots` sequences of at most `capacity` tokens each leave behind in the layers; a layer's part is made when it is first used. */
export class KvCache {
  readonly capacity: number;
  private readonly backend: Backend;
  private readonly slots: number;
  private readonly dtype: DType;
  private readonly parts = new Map<string, Tensor>();

  constructor(backend: Backend, { slots, capacity, dtype }: { slots: number; capacity: number; dtype: DType }) {
    this.backend = backend;
    this.slots = slots;
    this.capacity = capacity;
    this.dtype = dtype;
  }

  /**
   * Stores the keys and values [T, G·D] of one layer at the given rows and returns all of them, [slots·capacity, G·D]; sequence s owns rows
   * from s·capacity.
   */
  extend(layer: number, k: Tensor, v: Tensor, rows: Tensor): { k: Tensor; v: Tensor } {
    const keep = (name: string, x: Tensor) => {
      const out = this.part(`${name} ${layer}`, this.slots * this.capacity, x.shape[1]);
      this.backend.run('writeRows', { x, rows }, { out }, {});
      return out;
    };
    return { k: keep('k', k), v: keep('v', v) };
  }

  /** The last `inputs` of each sequence in a layer that is a convolution over C columns. */
  lastInputs(layer: number, inputs: number, C: number): ConvState {
    return { rows: this.part(`inputs ${layer}`, this.slots * inputs, C), capacity: this.capacity };
  }

  private part(name: string, rows: number, width: number): Tensor {
    const part = this.parts.get(name) ?? unscoped(() => zeros(this.backend, [rows, width], this.dtype));
    this.parts.set(name, part);
    return part;
  }

  dispose(): void {
    for (const part of this.parts.values()) part.dispose();
    this.parts.clear();
  }
}
