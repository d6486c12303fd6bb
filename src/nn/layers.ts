import type { DType } from '../core/dtype.js';
import type { Tensor } from '../core/tensor.js';
import { embedding, type LinearOptions, linear, rmsNorm } from '../ops/index.js';
import type { ForwardOptions } from './context.js';

/** A LoRA adapter of one linear layer; `dropout` is a probability, `stream` tells its masks from other layers'. */
export interface LoraLayer {
  /** [r,in] f32 */
  A: Tensor;
  /** [out,r] f32 */
  B: Tensor;
  scale: number;
  dropout: number;
  stream: number;
}

/** y = x·Wᵀ + b, weight [out,in]. An adapter sets `lora`; models do not know of it. */
export class Linear {
  weight: Tensor;
  bias?: Tensor;
  lora?: LoraLayer;

  constructor(weight: Tensor, bias?: Tensor) {
    this.weight = weight;
    this.bias = bias;
  }

  /** `more`: what is added to y, y where it is known, its dtype and category of memory. */
  forward(
    x: Tensor,
    { dropout: key }: ForwardOptions,
    more: Pick<LinearOptions, 'residual' | 'value' | 'dtype' | 'category'> = {},
  ): Tensor {
    const { bias, lora } = this;
    if (!lora) return linear(x, this.weight, { bias, ...more });
    const dropout = key && lora.dropout > 0 ? { p: lora.dropout, stream: lora.stream, ...key } : undefined;
    return linear(x, this.weight, { bias, lora: { A: lora.A, B: lora.B, scale: lora.scale, dropout }, ...more });
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

/** Root-mean-square normalisation with weight [C]. */
export class RMSNorm {
  weight: Tensor;
  readonly eps: number;

  constructor(weight: Tensor, eps: number) {
    this.weight = weight;
    this.eps = eps;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.eps);
  }
}

export type Module = Linear | Embedding | RMSNorm;
