import type { DType } from '../core/dtype.js';
import { fromArray, type Tensor } from '../core/tensor.js';
import {
  type ConvState,
  type ExpertBranch,
  embedding,
  type LinearOptions,
  layerNorm,
  linear,
  rmsNorm,
  type Segments,
  shortConv,
} from '../ops/index.js';
import type { ForwardOptions } from './context.js';

/** What is added to a linear layer's y, y where an earlier pass kept it, its dtype and category of memory. */
export type LinearCall = Pick<LinearOptions, 'residual' | 'kept' | 'dtype' | 'category'>;

/** What stands in the slot of a module and answers in its place: LoRA, and every other method. */
export interface ModuleAdapter {
  /** The trained tensors, f32, by the names that PEFT's files have behind the layer's path, such as `lora_A.weight`. */
  parameters(): Readonly<Record<string, Tensor>>;
  /** Brings the update into a copy of the module's weight, f32. */
  merge(weight: Tensor): void;
}

export interface LinearAdapter extends ModuleAdapter {
  /** x [T,in] → y [T,out] of the layer with its update. `pass` has the key of dropout masks. */
  forward(base: Linear, x: Tensor, pass: ForwardOptions, call: LinearCall): Tensor;
  /** The update as two matrices, for the rows of an expert; absent where it is none. */
  branch?(): ExpertBranch;
}

export interface EmbeddingAdapter extends ModuleAdapter {
  /** T token ids → y [T,C] of the embedding with its update. */
  forward(base: Embedding, ids: Int32Array, dtype: DType): Tensor;
}

/** y = x·Wᵀ + b, weight [out,in]. Models do not know of what stands in the slot. */
export class Linear {
  weight: Tensor;
  bias?: Tensor;
  adapter?: LinearAdapter;
  /** Whether it belongs to one of several experts: its rows are computed together with those of the others. */
  readonly ofExpert: boolean;

  constructor(weight: Tensor, bias?: Tensor, ofExpert = false) {
    this.weight = weight;
    this.bias = bias;
    this.ofExpert = ofExpert;
  }

  forward(x: Tensor, pass: ForwardOptions, call: LinearCall = {}): Tensor {
    if (this.adapter) return this.adapter.forward(this, x, pass, call);
    return linear(x, this.weight, { bias: this.bias, ...call });
  }
}

/** Rows of weight [V,C] by token id. */
export class Embedding {
  weight: Tensor;
  adapter?: EmbeddingAdapter;
  bias?: undefined;

  constructor(weight: Tensor) {
    this.weight = weight;
  }

  forward(ids: Int32Array, dtype: DType): Tensor {
    const { adapter, weight } = this;
    return adapter ? adapter.forward(this, ids, dtype) : embedding(fromArray(weight.backend, ids), weight, dtype);
  }
}

/** Root-mean-square normalisation with weight [C], to which `offset` is added. */
export class RMSNorm {
  weight: Tensor;
  bias?: undefined;
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

/** Normalisation to mean 0 and variance 1 with weight [C] and, where there is one, bias [C]. */
export class LayerNorm {
  weight: Tensor;
  bias?: Tensor;
  readonly eps: number;

  constructor(weight: Tensor, bias: Tensor | undefined, eps: number) {
    this.weight = weight;
    this.bias = bias;
    this.eps = eps;
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, this.eps);
  }
}

/** Causal convolution over K inputs of each of C columns by itself, weight [C,1,K]. */
export class ShortConv {
  weight: Tensor;
  bias?: undefined;

  constructor(weight: Tensor) {
    this.weight = weight;
  }

  /** K */
  get taps(): number {
    return this.weight.shape[2];
  }

  forward(x: Tensor, segments: Segments, state?: ConvState): Tensor {
    return shortConv(x, this.weight, segments, state);
  }
}

export type Norm = RMSNorm | LayerNorm;
export type Module = Linear | Embedding | Norm | ShortConv;
