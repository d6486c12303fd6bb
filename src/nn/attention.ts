import type { Tensor } from '../core/tensor.js';
import { attention, rope } from '../ops/index.js';
import type { LayerContext } from './context.js';
import type { Linear } from './layers.js';

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

  forward(x: Tensor, context: LayerContext): Tensor {
    const { headDim } = this;
    const { options, positions, segments } = context;
    const q = rope(this.q.forward(x, options), context.rope, positions, headDim);
    const k = rope(this.k.forward(x, options), context.rope, positions, headDim);
    const v = this.v.forward(x, options);
    const keys = options.cache && context.cacheRows ? options.cache.extend(this.layer, k, v, context.cacheRows) : { k, v };
    const out = attention(q, keys.k, keys.v, segments, { headDim, scale: 1 / Math.sqrt(headDim) });
    return this.o.forward(out, options);
  }
}
