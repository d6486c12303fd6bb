import type { GpuOps } from '../context.js';
import { type GpuOperand, grid, type Kernel } from '../kernel.js';

const size = 64;

const adamw: Kernel = {
  name: 'adamw',
  size,
  main: () => `  let i = thread;
  if (i >= p.n) { return; }
  let g = p.gradientScale * gradient_at(i);
  let m = p.beta1 * m_at(i) + p.rest1 * g;
  let v = p.beta2 * v_at(i) + p.rest2 * g * g;
  m_set(i, m);
  v_set(i, v);
  parameter_set(i, p.keep * parameter_at(i) - p.rate * (m / (sqrt(v) * p.inverseRoot + p.eps)));`,
};

const lion: Kernel = {
  name: 'lion',
  size,
  main: () => `  let i = thread;
  if (i >= p.n) { return; }
  let g = p.gradientScale * gradient_at(i);
  let m = m_at(i);
  parameter_set(i, p.keep * parameter_at(i) - p.lr * sign(p.beta1 * m + p.rest1 * g));
  m_set(i, p.beta2 * m + p.rest2 * g);`,
};

const sgd: Kernel = {
  name: 'sgd',
  size,
  main: () => `  let i = thread;
  if (i >= p.n) { return; }
  let old = parameter_at(i);
  parameter_set(i, old - p.lr * (p.gradientScale * gradient_at(i) + p.weightDecay * old));`,
};

function checkAlike(operands: readonly GpuOperand[]): number {
  for (const operand of operands) operand.check(['f32'], operands[0].shape);
  return operands[0].size;
}

export const optimizerOps: GpuOps<'adamw' | 'lion' | 'sgd'> = {
  adamw: ({ gradient }, { parameter, m, v }, { lr, beta1, beta2, eps, weightDecay, step, gradientScale }, { dispatch }) => {
    const n = checkAlike([gradient, parameter, m, v]);
    const numbers = {
      gradientScale,
      beta1,
      rest1: 1 - beta1,
      beta2,
      rest2: 1 - beta2,
      keep: 1 - lr * weightDecay,
      rate: lr / (1 - beta1 ** step),
      inverseRoot: 1 / Math.sqrt(1 - beta2 ** step),
      eps,
    };
    dispatch({ kernel: adamw, reads: { gradient }, writes: { parameter, m, v }, integers: { n }, numbers, groups: grid(n, size) });
  },
  lion: ({ gradient }, { parameter, m }, { lr, beta1, beta2, weightDecay, gradientScale }, { dispatch }) => {
    const n = checkAlike([gradient, parameter, m]);
    const numbers = { gradientScale, keep: 1 - lr * weightDecay, lr, beta1, rest1: 1 - beta1, beta2, rest2: 1 - beta2 };
    dispatch({ kernel: lion, reads: { gradient }, writes: { parameter, m }, integers: { n }, numbers, groups: grid(n, size) });
  },
  sgd: ({ gradient }, { parameter }, { lr, weightDecay, gradientScale }, { dispatch }) => {
    const n = checkAlike([gradient, parameter]);
    const numbers = { lr, gradientScale, weightDecay };
    dispatch({ kernel: sgd, reads: { gradient }, writes: { parameter }, integers: { n }, numbers, groups: grid(n, size) });
  },
};
