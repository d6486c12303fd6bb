import type { DType } from '../core/dtype.js';
import type { Tensor } from '../core/tensor.js';
import { embedding, type LinearOptions, linear, rmsNorm } from '../ops/index.js';
import type { ForwardOptions } from './context.js';

/** What is added to a linear layer's y, y where an earlier pass kept it, its dtype and category of memory. */
export type LinearCall = Pick<LinearOptions, 'residual' | 'kept' | 'dtype' | 'category'>;

/** What stands in a linear layer's slot and answers in the layer's place: LoRA, and every other method that adapts linear layers. */
export interface LinearAdapter {
  /** x [T,in] → y [T,out] of the layer with its update. `pass` has the key of dropout masks. */
  forward(base: Linear, x: Tensor, pass: ForwardOptions, call: LinearCall): Tensor;
  /** The trained tensors, f32, by the names that PEFT's files have behind the layer's path, such as `lora_A.weight`. */
  parameters(): Readonly<Record<string, Tensor>>;
  /** Brings the update into a copy of the layer's weight, [out,in] f32. */
  merge(weight: Tensor): void;
}

/** y = x·Wᵀ + b, weight [out,in]. Models do not know of what stands in the slot. */
export class Linear {
  weight: Tensor;
  bias?: Tensor;
  adapter?: LinearAdapter;

  constructor(weight: Tensor, bias?: Tensor) {
    this.weight = weight;
    this.bias = bias;
  }

  forward(x: Tensor, pass: ForwardOptions, call: LinearCall = {}): Tensor {
    if (this.adapter) return this.adapter.forward(this, x, pass, call);
    return linear(x, this.weight, { bias: this.bias, ...call });
  }
}

/** Rows of weight [V,C] by token id. */
export class Embedding {
  weight: Tensor;

  constructor(weight: Tensor) {
    this.weight = weight;
  }

  forward(ids: Tensor, dtype: DType): Tensor {
    return embedding(ids, this.weight, dtype);
  }
}

/** Root-mean-square normalisation with weight [C], to which `offset` is added. */
export class RMSNorm {
  weight: Tensor;
  readonly eps: number;
  readonly offset: number;

  constructor(weight: Tensor, eps: number, offset = 0) {
    this.weight = weight;
    this.eps = eps;
    this.offset = offset;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.eps, this.offset);
  }
}

export type Module = Linear | Embedding | RMSNorm;
