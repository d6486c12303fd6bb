import type { LabelledTokens } from '../batch.js';

/** The terms of a micro-batch whose losses are known. */
export interface Weighted {
  /** The sum of the terms, which a step divides by their number. */
  readonly value: number;
  /** Of each supervised token, the derivative of that sum by the token's loss; in the order of the losses. */
  readonly weights: Float32Array;
}

/**
 * What training makes small: the mean of terms over all of a step. Every objective is a function of the losses of supervised tokens, −log
 * p, so that its gradient is theirs, each with a weight; a file beside this one is one objective.
 */
export interface Objective {
  readonly name: string;
  /** How many terms a micro-batch has: supervised tokens, sequences or pairs. */
  count(batch: LabelledTokens): number;
  /**
   * The terms out of the losses [n] of a pass; without it every loss is a term of its own, and loss and gradient come out of one pass over
   * the vocabulary instead of two.
   */
  weigh?(losses: Float32Array, batch: LabelledTokens, reference: Float32Array | undefined): Weighted;
  /** `weigh` is given the losses of the untuned base as `reference`, from a pass with the adapter switched off. */
  readonly needsReference?: boolean;
}
