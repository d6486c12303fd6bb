import type { Algorithm } from './algorithm.js';

/** Gradient descent without momentum, as torch.optim.SGD with a weight decay computes it. Keeps no state. */
export const sgd: Algorithm = (parameter, { weight_decay: weightDecay }) => ({
  states: {},
  update: ({ gradient, lr, gradientScale }) =>
    parameter.backend.run('sgd', { gradient }, { parameter }, { lr, weightDecay, gradientScale }),
});
