import type { Algorithm, Slot } from './algorithm.js';
import { inEightBits } from './state-memory.js';

/**
 * AdamW (Loshchilov & Hutter 2019). With states in 32 bits as torch.optim.AdamW computes it, whose names the states bear; in 8 bits as
 * bitsandbytes' AdamW8bit does.
 */
export const adamw: Algorithm = (parameter, options, bits, memory): Slot => {
  const { adam_beta1: beta1, adam_beta2: beta2, adam_epsilon: eps, weight_decay: weightDecay } = options;
  const { backend } = parameter;
  const settings = { beta1, beta2, eps, weightDecay };
  if (!inEightBits(parameter, bits)) {
    const [m, v] = [memory.state32(parameter), memory.state32(parameter)];
    return {
      states: { exp_avg: m, exp_avg_sq: v },
      update: ({ gradient, ...now }) => backend.run('adamw', { gradient }, { parameter, m, v }, { ...settings, ...now }),
    };
  }
  const [first, second] = [memory.state8(parameter), memory.state8(parameter)];
  const [signed, unsigned] = [memory.map(backend, true), memory.map(backend, false)];
  const tables = { valuesM: signed.values, codesM: signed.codes, valuesV: unsigned.values, codesV: unsigned.codes };
  const outputs = { parameter, m: first.codes, absmaxM: first.absmax, v: second.codes, absmaxV: second.absmax };
  return {
    states: { state1: first.codes, absmax1: first.absmax, state2: second.codes, absmax2: second.absmax },
    update: ({ gradient, ...now }) => backend.run('adamw8bit', { gradient, ...tables }, outputs, { ...settings, ...now }),
  };
};
