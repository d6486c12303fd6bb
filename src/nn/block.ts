import type { Tensor } from '../core/tensor.js';
import { add, scale } from '../ops/index.js';
import type { Attended, Attention } from './attention.js';
import type { LayerContext } from './context.js';
import type { DecoderLayer } from './decoder.js';
import type { MixtureOfExperts } from './experts.js';
import type { Norm } from './layers.js';
import type { GatedMlp, Mlp } from './mlp.js';

/** Something of each place where a norm may stand. */
export interface NormPlaces<N> {
  beforeAttention?: N;
  afterAttention?: N;
  beforeMlp?: N;
  afterMlp?: N;
}

export interface BlockParts {
  readonly norms: NormPlaces<Norm>;
  readonly attention: Attention;
  readonly mlp: GatedMlp | Mlp | MixtureOfExperts;
  /** Factor of what attention and MLP add to the residual; default 1. */
  readonly residualScale?: number;
  /** The MLP reads what the attention reads, with a norm of its own or the same. */
  readonly parallel?: boolean;
}

/** y = x + attention(x), then y + mlp(y) or, in parallel, y + mlp(x), with norms before either, behind it, or both. */
export class Block implements DecoderLayer {
  private readonly parts: BlockParts;

  constructor(parts: BlockParts) {
    this.parts = parts;
  }

  forward(x: Tensor, context: LayerContext, kept?: { output: Tensor } & Partial<Attended>): { output: Tensor } & Attended {
    const { norms, attention, mlp, parallel } = this.parts;
    // Where nothing stands between a product and the sum with the residual, the product adds it itself.
    const [afterAttention, afterMlp] = [norms.afterAttention, norms.afterMlp].map((norm) => this.between(norm));
    const attending = norms.beforeAttention?.forward(x) ?? x;
    const attended = attention.forward(attending, afterAttention ? undefined : x, context, kept);
    const y = afterAttention ? add(x, afterAttention(attended.y)) : attended.y;
    const normed = norms.beforeMlp?.forward(parallel ? x : y) ?? (parallel ? attending : y);
    const { pass } = context;
    if (!afterMlp) return { output: mlp.forward(normed, y, pass, kept?.output), ...attended };
    return { output: add(y, afterMlp(mlp.forward(normed, undefined, pass))), ...attended };
  }

  private between(norm: Norm | undefined): ((x: Tensor) => Tensor) | undefined {
    const { residualScale = 1 } = this.parts;
    if (!norm && residualScale === 1) return undefined;
    return (x) => scale(norm?.forward(x) ?? x, residualScale);
  }
}
