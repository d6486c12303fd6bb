import type { Algorithm, Slot } from './algorithm.js';
import { inEightBits } from './state-memory.js';

/** Lion (Chen et al. 2023), in 32 or 8 bits as bitsandbytes' Lion and Lion8bit compute it; the betas are adam_beta1 and adam_beta2. */
export const lion: Algorithm = (parameter, options, bits, memory): Slot => {
  const { adam_beta1: beta1, adam_beta2: beta2, weight_decay: weightDecay } = options;
  const { backend } = parameter;
  const settings = { beta1, beta2, weightDecay };
  if (!inEightBits(parameter, bits)) {
    const m = memory.state32(parameter);
    return {
      states: { exp_avg: m },
      update: ({ gradient, lr, gradientScale }) => backend.run('lion', { gradient }, { parameter, m }, { ...settings, lr, gradientScale }),
    };
  }
  const { codes: m, absmax } = memory.state8(parameter);
  const map = memory.map(backend, true);
  return {
    states: { state1: m, absmax1: absmax },
    update: ({ gradient, lr, gradientScale }) =>
      backend.run('lion8bit', { gradient, ...map }, { parameter, m, absmax }, { ...settings, lr, gradientScale }),
  };
};
