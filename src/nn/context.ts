import type { Tensor } from '../core/tensor.js';
import type { Balance, RopeTables, Segments } from '../ops/index.js';
import type { KvCache } from './kv-cache.js';
import type { RotaryEmbedding } from './rotary.js';

/** Several token sequences laid end to end, as `data/batches.ts` makes them; T tokens, S sequences. */
export interface PackedTokens {
  /** [T] */
  readonly inputIds: Int32Array;
  /** [T], from 0 in each sequence (or from its cached length) */
  readonly positions: Int32Array;
  /** [S,4] rows (qStart, qEnd, kStart, kEnd) */
  readonly segments: Int32Array;
}

/** How one forward pass is done. */
export interface ForwardOptions {
  /** Present in training: the key of this pass's dropout masks. */
  dropout?: { seed: number; step: number };
  /** Keep little of each layer and compute the rest again in the backward pass. */
  recompute?: boolean;
  /** With `recompute`: a local folder for what is kept, instead of memory. */
  offloadFolder?: string;
  /** Keys and values of earlier tokens; `cacheRows` [T] says where this pass's own are written. */
  cache?: KvCache;
  cacheRows?: Int32Array;
  /** In training with the balancing loss: where mixtures of experts count what they do. */
  balance?: Balance;
}

/** What the layers of one forward pass share, on the device. */
export interface LayerContext {
  readonly positions: Tensor;
  readonly segments: Segments;
  readonly pass: ForwardOptions;
  readonly cacheRows?: Tensor;
  /** Cosines and sines that cover the positions of this pass. */
  ropeTables(rotary: RotaryEmbedding): RopeTables;
}
