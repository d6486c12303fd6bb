import type { Tensor } from '../core/tensor.js';
import type { Algorithm, Slot } from './algorithm.js';

/** Defaults of transformers' Adafactor: eps[0], clip_threshold and decay_rate. */
const eps = 1e-30;
const clipThreshold = 1;
const decayRate = -0.8;

/**
 * Adafactor (Shazeer & Stern 2018) as transformers' Adafactor(scale_parameter=False, relative_step=False), without a first moment. A matrix
 * [R,C] keeps R + C numbers; β₂ = 1 − step^−0.8.
 */
export const adafactor: Algorithm = (parameter, { weight_decay: weightDecay }, _, memory): Slot => {
  const { backend, shape } = parameter;
  const state = (n: number) => memory.zeros(backend, [n], 'f32');
  const slot = (states: Slot['states'], outputs: { row?: Tensor; column?: Tensor; v?: Tensor }): Slot => ({
    states,
    update: ({ gradient, lr, step, gradientScale }) => {
      const attributes = { lr, beta2: 1 - step ** decayRate, eps, clipThreshold, weightDecay, gradientScale };
      backend.run('adafactor', { gradient }, { parameter, ...outputs }, attributes);
    },
  });
  if (shape.length !== 2) {
    const v = memory.state32(parameter);
    return slot({ exp_avg_sq: v }, { v });
  }
  const [row, column] = [state(shape[0]), state(shape[1])];
  return slot({ exp_avg_sq_row: row, exp_avg_sq_col: column }, { row, column });
};
