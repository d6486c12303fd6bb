import { record } from '../core/tape.js';
import { overwritable, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';

/** Cosines and sines of the rotary angles, [P, R/2] f32 each, for positions 0 … P−1. */
export interface RopeTables {
  cos: Tensor;
  sin: Tensor;
}

/** How the heads are that are rotated. */
export interface RopeOptions {
  headDim: number;
  /** Whether the pairs that turn together are neighbours, instead of one of each half. */
  interleaved?: boolean;
  /** x is rotated already, and only what the backward pass needs is done. */
  rotated?: boolean;
}

/**
 * Rotates each head of x [T, heads·headDim] by the angle of its position (Su et al. 2021). Overwrites x.
 *
 * A rotation's vjp is the rotation back: dx = R(−θ)·dy.
 */
export function rope(x: Tensor, { cos, sin }: RopeTables, positions: Tensor, options: RopeOptions): Tensor {
  const { headDim, interleaved = false, rotated = false } = options;
  checkShape('rope', 'positions', positions, [x.shape[0]]);
  const backend = x.backend;
  const y = x.alias();
  if (!rotated) backend.run('rope', { x, cos, sin, positions }, { out: y }, { headDim, interleaved, back: false });
  return record('rope', [x], y, [cos, sin, positions], (dy) => {
    const dx = overwritable(dy);
    backend.run('rope', { x: dy, cos, sin, positions }, { out: dx }, { headDim, interleaved, back: true });
    return [dx];
  });
}
