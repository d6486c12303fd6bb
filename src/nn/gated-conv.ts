import type { Tensor } from '../core/tensor.js';
import { columns, mul } from '../ops/index.js';
import type { LayerContext } from './context.js';
import type { Linear, ShortConv } from './layers.js';

export interface GatedConvParts {
  /** [T,C] → [T,3·C]: the gate before the convolution, the one behind it, and what is convolved. */
  in: Linear;
  conv: ShortConv;
  out: Linear;
}

/** out(c∘conv(b∘x)) with b, c and x the columns of one projection: a layer's work in attention's place (Lfm2ShortConv of transformers). */
export class GatedConv {
  private readonly layer: number;
  private readonly parts: GatedConvParts;

  /** `layer` is its number, by which the cache knows it. */
  constructor(layer: number, parts: GatedConvParts) {
    this.layer = layer;
    this.parts = parts;
  }

  /** x [T,C], residual [T,C] → y = residual + this, which is `kept` where an earlier pass has kept it. */
  forward(x: Tensor, residual: Tensor, { pass, segments }: LayerContext, kept?: Tensor): Tensor {
    const { in: into, conv, out } = this.parts;
    const [, C] = x.shape;
    const projected = into.forward(x, pass);
    const [before, behind, inner] = [0, C, 2 * C].map((column) => columns(projected, column, C));
    const convolved = conv.forward(mul(before, inner), segments, pass.cache?.lastInputs(this.layer, conv.taps - 1, C));
    return out.forward(mul(behind, convolved), pass, { residual, kept });
  }
}
