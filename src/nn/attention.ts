import type { Tensor } from '../core/tensor.js';
import { attention, rope } from '../ops/index.js';
import type { LayerContext } from './context.js';
import type { Linear } from './layers.js';
import type { RotaryEmbedding } from './rotary.js';

/** What attention has computed that is dear and small, by name. */
export type Attended = {
  /** residual + attention(x), [T,C] */
  readonly y: Tensor;
  /** Rotated queries [T,H·D] and keys [T,G·D], and values [T,G·D]. */
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  /** What the heads give, [T,H·D], before the projection. */
  readonly heads: Tensor;
  /** [T,H] f32, where the backend has fused attention. */
  readonly lse?: Tensor;
};

export interface AttentionParts {
  q: Linear;
  k: Linear;
  v: Linear;
  o: Linear;
  rotary: RotaryEmbedding;
}

/** Causal grouped-query self-attention with rotary positions: H query heads, G key/value heads of width D. */
export class Attention {
  private readonly layer: number;
  private readonly headDim: number;
  private readonly parts: AttentionParts;

  /** `layer` is its number, by which the cache knows it. */
  constructor(layer: number, headDim: number, parts: AttentionParts) {
    this.layer = layer;
    this.headDim = headDim;
    this.parts = parts;
  }

  /** x [T,C], residual [T,C] → what is worth keeping, y first. With `kept`, the same of an earlier pass, only what a backward pass needs is done. */
  forward(x: Tensor, residual: Tensor, context: LayerContext, kept?: Partial<Attended>): Attended {
    const { headDim, parts } = this;
    const { pass, positions, segments } = context;
    const tables = context.ropeTables(parts.rotary);
    const rotate = (projection: Linear, keptRows: Tensor | undefined) =>
      rope(projection.forward(x, pass, { kept: keptRows }), tables, positions, headDim, keptRows !== undefined);
    const q = rotate(parts.q, kept?.q);
    const k = rotate(parts.k, kept?.k);
    const v = parts.v.forward(x, pass, { kept: kept?.v });
    const keys = pass.cache && context.cacheRows ? pass.cache.extend(this.layer, k, v, context.cacheRows) : { k, v };
    const keptHeads = kept?.heads && { out: kept.heads, lse: kept.lse };
    const { out, lse } = attention(q, keys.k, keys.v, segments, { headDim, scale: 1 / Math.sqrt(headDim) }, keptHeads);
    return { y: parts.o.forward(out, pass, { residual, kept: kept?.y }), q, k, v, heads: out, lse };
  }
}
