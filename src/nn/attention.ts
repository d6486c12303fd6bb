import type { Tensor } from '../core/tensor.js';
import { type AttentionHeads, attention, rope } from '../ops/index.js';
import type { LayerContext } from './context.js';
import type { Linear } from './layers.js';

export interface Attended {
  y: Tensor;
  heads: AttentionHeads;
  /** Rotated queries and keys, and values. */
  q: Tensor;
  k: Tensor;
  v: Tensor;
}

/** Causal grouped-query self-attention with rotary positions: H query heads, G key/value heads of width D. */
export class Attention {
  readonly headDim: number;
  readonly layer: number;
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly o: Linear;

  constructor(layer: number, headDim: number, projections: { q: Linear; k: Linear; v: Linear; o: Linear }) {
    this.layer = layer;
    this.headDim = headDim;
    this.q = projections.q;
    this.k = projections.k;
    this.v = projections.v;
    this.o = projections.o;
  }

  /**
   * x [T,C] → y = residual + attention(x), and on the way there q [T,H·D], k and v [T,G·D], and `heads`: out [T,H·D] and, where the backend
   * has it, lse [T,H]. With `known` only what a backward pass needs besides is computed.
   */
  forward(x: Tensor, residual: Tensor, context: LayerContext, known?: Attended): Attended {
    const { headDim } = this;
    const { options, positions, segments } = context;
    const rotated = known !== undefined;
    const q = rope(this.q.forward(x, options, { value: known?.q }), context.rope, positions, headDim, rotated);
    const k = rope(this.k.forward(x, options, { value: known?.k }), context.rope, positions, headDim, rotated);
    const v = this.v.forward(x, options, { value: known?.v });
    const keys = options.cache && context.cacheRows ? options.cache.extend(this.layer, k, v, context.cacheRows) : { k, v };
    const heads = attention(q, keys.k, keys.v, segments, { headDim, scale: 1 / Math.sqrt(headDim) }, known?.heads);
    return { y: this.o.forward(heads.out, options, { residual, value: known?.y }), heads, q, k, v };
  }
}
