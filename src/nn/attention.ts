import type { Tensor } from '../core/tensor.js';
import { attention, columns, reshape, rope } from '../ops/index.js';
import type { LayerContext } from './context.js';
import type { Linear, Norm } from './layers.js';
import type { RotaryEmbedding } from './rotary.js';

/** What attention has computed that is dear and small, by name. */
export type Attended = {
  /** residual + attention(x), [T,C] */
  readonly y: Tensor;
  /** Rotated queries [T,H·D] and keys [T,G·D], unless they have norms or are fused: then the backward pass needs what was before. */
  readonly q?: Tensor;
  readonly k?: Tensor;
  /** [T,G·D], unless fused. */
  readonly v?: Tensor;
  /** What the heads give, [T,H·D], before the projection. */
  readonly heads: Tensor;
  /** [T,H] f32, where the backend has fused attention. */
  readonly lse?: Tensor;
};

/**
 * The projections of x: one each, or one whose columns are queries, keys and values, of all heads together or in `groups`, each with its
 * queries, its keys and its values.
 */
export type Projections = { q: Linear; k: Linear; v: Linear } | { qkv: Linear; groups?: number };

export interface AttentionParts {
  in: Projections;
  o: Linear;
  /** Of queries and keys before they are rotated: over each head (weight [D]) or over all of them at once. */
  qNorm?: Norm;
  kNorm?: Norm;
  /** Without one, positions are not told. */
  rotary?: RotaryEmbedding;
  /** Whether neighbours turn together, instead of one of each half of a head. */
  interleaved?: boolean;
  /** Keys that a query sees, itself included; 0, as by default, for all. */
  window?: number;
  /** Factor of the scores; default 1/√D. */
  scale?: number;
  /** Soft cap of the scores; 0, as by default, for none. */
  softcap?: number;
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
   * x [T,C], residual [T,C] → what is worth keeping, with y = residual + attention(x); without a residual y = attention(x). With `kept`,
   * the same of an earlier pass, only what a backward pass needs is done.
   */
  forward(x: Tensor, residual: Tensor | undefined, context: LayerContext, kept?: Partial<Attended>): Attended {
    const { headDim, parts, layer } = this;
    const { pass, segments } = context;
    const { window, scale = 1 / Math.sqrt(headDim), softcap } = parts;
    const projected = this.project(x, context, kept);
    const q = this.positioned(projected.q, parts.qNorm, context, kept?.q !== undefined);
    const k = this.positioned(projected.k, parts.kNorm, context, kept?.k !== undefined);
    const { v } = projected;
    const keys = pass.cache && context.cacheRows ? pass.cache.extend(layer, k, v, context.cacheRows) : { k, v };
    const keptHeads = kept?.heads && { out: kept.heads, lse: kept.lse };
    const { out, lse } = attention(q, keys.k, keys.v, segments, { headDim, scale, window, softcap }, keptHeads);
    const y = parts.o.forward(out, pass, { residual, kept: kept?.y });
    if ('qkv' in parts.in) return { y, heads: out, lse };
    return { y, v, heads: out, lse, q: parts.qNorm ? undefined : q, k: parts.kNorm ? undefined : k };
  }

  private project(x: Tensor, { pass }: LayerContext, kept: Partial<Attended> | undefined): { q: Tensor; k: Tensor; v: Tensor } {
    const { in: projections, o } = this.parts;
    if (!('qkv' in projections)) {
      const { q, k, v } = projections;
      return {
        q: q.forward(x, pass, { kept: kept?.q }),
        k: k.forward(x, pass, { kept: kept?.k }),
        v: v.forward(x, pass, { kept: kept?.v }),
      };
    }
    const { qkv, groups = 1 } = projections;
    const [T] = x.shape;
    const width = qkv.weight.shape[0] / groups;
    const Q = o.weight.shape[1] / groups;
    const K = (width - Q) / 2;
    const grouped = regrouped(qkv.forward(x, pass), T * groups);
    const part = (first: number, size: number) => regrouped(columns(grouped, first, size), T);
    return { q: part(0, Q), k: part(Q, K), v: part(Q + K, K) };
  }

  /** Queries or keys, normalised and rotated. */
  private positioned(projected: Tensor, norm: Norm | undefined, context: LayerContext, rotated: boolean): Tensor {
    const { headDim, parts } = this;
    const normed = norm ? this.normed(norm, projected) : projected;
    if (!parts.rotary) return normed;
    return rope(normed, context.ropeTables(parts.rotary), context.positions, { headDim, interleaved: parts.interleaved, rotated });
  }

  private normed(norm: Norm, x: Tensor): Tensor {
    const [rows, width] = x.shape;
    const [weights] = norm.weight.shape;
    if (weights === width) return norm.forward(x);
    return reshape(norm.forward(reshape(x, [(rows * width) / weights, weights])), x.shape);
  }
}

/** The same numbers in as many rows. */
function regrouped(x: Tensor, rows: number): Tensor {
  return x.shape[0] === rows ? x : reshape(x, [rows, x.size / rows]);
}
