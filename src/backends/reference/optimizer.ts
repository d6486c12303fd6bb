import type { Kernels } from './operand.js';

export const optimizerOps: Kernels<'adamw'> = {
  adamw: ({ gradient }, { parameter, m, v }, { lr, beta1, beta2, eps, weightDecay, step, gradientScale }) => {
    for (const operand of [gradient, parameter, m, v]) operand.check(['f32'], parameter.shape);
    const [gradients, parameters, first, second] = [gradient, parameter, m, v].map((operand) => operand.values());
    const stepSize = lr / (1 - beta1 ** step);
    const correction = Math.sqrt(1 - beta2 ** step);
    for (let i = 0; i < parameters.length; i++) {
      const g = gradientScale * gradients[i];
      first[i] = beta1 * first[i] + (1 - beta1) * g;
      second[i] = beta2 * second[i] + (1 - beta2) * g * g;
      parameters[i] = parameters[i] * (1 - lr * weightDecay) - (stepSize * first[i]) / (Math.sqrt(second[i]) / correction + eps);
    }
  },
};
