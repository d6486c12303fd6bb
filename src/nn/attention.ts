import type { Tensor } from '../core/tensor.js';
import { attention, reshape, rope } from '../ops/index.js';
import type { LayerContext } from './context.js';
import type { Linear, RMSNorm } from './layers.js';
import type { RotaryEmbedding } from './rotary.js';

/** What attention has computed that is dear and small, by name. */
export type Attended = {
  /** residual + attention(x), [T,C] */
  readonly y: Tensor;
  /** Rotated queries [T,H·D] and keys [T,G·D], unless they have norms, whose backward pass needs what was before. */
  readonly q?: Tensor;
  readonly k?: Tensor;
  /** [T,G·D] */
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
  /** Of queries and keys before they are rotated: over each head (weight [D]) or over all of them at once. */
  qNorm?: RMSNorm;
  kNorm?: RMSNorm;
  /** Without one, positions are not told. */
  rotary?: RotaryEmbedding;
  /** Keys that a query sees, itself included; 0, as by default, for all. */
  window?: number;
  /** Factor of the scores; default 1/√D. */
  scale?: number;
}

/** Causal grouped-query self-attention: H query heads, G key/value heads of width D. */
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

  /**
   * x [T,C], residual [T,C] → what is worth keeping, with y = residual + attention(x); without a residual y = attention(x). With `kept`, the same of
   * an earlier pass, only what a backward pass needs is done.
   */
  forward(x: Tensor, residual: Tensor | undefined, context: LayerContext, kept?: Partial<Attended>): Attended {
    const { headDim, parts, layer } = this;
    const { pass, segments } = context;
    const { window, scale = 1 / Math.sqrt(headDim) } = parts;
    const q = this.positioned(parts.q, parts.qNorm, x, context, kept?.q);
    const k = this.positioned(parts.k, parts.kNorm, x, context, kept?.k);
    const v = parts.v.forward(x, pass, { kept: kept?.v });
    const keys = pass.cache && context.cacheRows ? pass.cache.extend(layer, k, v, context.cacheRows) : { k, v };
    const keptHeads = kept?.heads && { out: kept.heads, lse: kept.lse };
    const { out, lse } = attention(q, keys.k, keys.v, segments, { headDim, scale, window }, keptHeads);
    const y = parts.o.forward(out, pass, { residual, kept: kept?.y });
    return { y, v, heads: out, lse, q: parts.qNorm ? undefined : q, k: parts.kNorm ? undefined : k };
  }

  /** Queries or keys: projected, normalised, rotated. */
  private positioned(projection: Linear, norm: RMSNorm | undefined, x: Tensor, context: LayerContext, kept: Tensor | undefined): Tensor {
    const { headDim, parts } = this;
    const projected = projection.forward(x, context.pass, { kept });
    const normed = norm ? this.normed(norm, projected) : projected;
    if (!parts.rotary) return normed;
    return rope(normed, context.ropeTables(parts.rotary), context.positions, headDim, kept !== undefined);
  }

  private normed(norm: RMSNorm, x: Tensor): Tensor {
    const [rows, width] = x.shape;
    const [weights] = norm.weight.shape;
    if (weights === width) return norm.forward(x);
    return reshape(norm.forward(reshape(x, [(rows * width) / weights, weights])), x.shape);
  }
}
