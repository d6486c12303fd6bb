import { bins, stateBlock } from '../../quant/dynamic-map.js';
import type { Kernels, Operand } from './operand.js';
import { encodeBins, fma } from './quantize.js';

const { fround } = Math;

/** A state of 8 bits as an op is given it. */
interface State {
  readonly codes: Operand;
  readonly absmax: Operand;
  readonly values: Operand;
  /** The code of each bin. */
  readonly codeOf: Operand;
}

/** The numbers of a state, f32, for a parameter of `size` elements. */
function decode({ codes, absmax, values, codeOf }: State, shape: readonly number[], size: number): Float32Array {
  codes.check(['u8'], shape);
  absmax.check(['f32'], [Math.ceil(size / stateBlock)]);
  values.check(['f32'], [256]);
  codeOf.check(['u8'], [bins]);
  const [scales, numbers] = [absmax.values(), values.values()];
  return Float32Array.from(codes.raw(), (code, i) => numbers[code] * scales[Math.floor(i / stateBlock)]);
}

/** Stores new numbers of a state. */
function encode({ codes, absmax, codeOf }: State, numbers: Float32Array): void {
  encodeBins(numbers, stateBlock, codeOf, codes, absmax);
}

export const optimizerOps: Kernels<'adamw' | 'adamw8bit' | 'lion' | 'lion8bit' | 'sgd' | 'adafactor'> = {
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
  adamw8bit: (inputs, outputs, { lr, beta1, beta2, eps, weightDecay, step, gradientScale }) => {
    const { gradient, valuesM, codesM, valuesV, codesV } = inputs;
    const { parameter, m, absmaxM, v, absmaxV } = outputs;
    for (const operand of [gradient, parameter]) operand.check(['f32'], parameter.shape);
    const [stateM, stateV] = [
      { codes: m, absmax: absmaxM, values: valuesM, codeOf: codesM },
      { codes: v, absmax: absmaxV, values: valuesV, codeOf: codesV },
    ];
    const first = decode(stateM, parameter.shape, parameter.size);
    const second = decode(stateV, parameter.shape, parameter.size);
    const [gradients, parameters] = [gradient.values(), parameter.values()];
    const stepSize = lr / (1 - beta1 ** step);
    const correction = Math.sqrt(1 - beta2 ** step);
    // The states' codes depend on every bit: each rounding is the formula's.
    const [b1, rest1, b2, rest2] = [beta1, 1 - beta1, beta2, 1 - beta2].map(fround);
    for (let i = 0; i < parameters.length; i++) {
      const g = fround(fround(gradientScale) * gradients[i]);
      first[i] = fma(g, rest1, fround(b1 * first[i]));
      second[i] = fma(fround(rest2 * g), g, fround(b2 * second[i]));
      parameters[i] = parameters[i] * (1 - lr * weightDecay) - (stepSize * first[i]) / (Math.sqrt(second[i]) / correction + eps);
    }
    encode(stateM, first);
    encode(stateV, second);
  },
  lion: ({ gradient }, { parameter, m }, attributes) => {
    for (const operand of [gradient, parameter, m]) operand.check(['f32'], parameter.shape);
    lion(gradient.values(), parameter.values(), m.values(), attributes);
  },
  lion8bit: ({ gradient, values, codes }, { parameter, m, absmax }, attributes) => {
    for (const operand of [gradient, parameter]) operand.check(['f32'], parameter.shape);
    const state = { codes: m, absmax, values, codeOf: codes };
    const first = decode(state, parameter.shape, parameter.size);
    lion(gradient.values(), parameter.values(), first, attributes);
    encode(state, first);
  },
  sgd: ({ gradient }, { parameter }, { lr, weightDecay, gradientScale }) => {
    for (const operand of [gradient, parameter]) operand.check(['f32'], parameter.shape);
    const [gradients, parameters] = [gradient.values(), parameter.values()];
    for (let i = 0; i < parameters.length; i++) parameters[i] -= lr * (gradientScale * gradients[i] + weightDecay * parameters[i]);
  },
  adafactor: ({ gradient }, { parameter, row, column, v }, { lr, beta2, eps, clipThreshold, weightDecay, gradientScale }) => {
    for (const operand of [gradient, parameter]) operand.check(['f32'], parameter.shape);
    const matrix = parameter.shape.length === 2;
    if (matrix !== Boolean(row) || matrix !== Boolean(column) || matrix === Boolean(v))
      parameter.refuse('has the states of another shape', 'row and column for a matrix, v for any other parameter');
    const gradients = Float64Array.from(gradient.values(), (x) => gradientScale * x);
    const squares = gradients.map((g) => g * g + eps);
    const roots = v ? plainRoots(v, squares, beta2, parameter.shape) : factoredRoots(row!, column!, squares, beta2, parameter.shape);
    const updates = gradients.map((g, i) => g / roots[i]);
    const rms = Math.sqrt(updates.reduce((sum, u) => sum + u * u, 0) / updates.length);
    const parameters = parameter.values();
    const factor = lr / Math.max(1, rms / clipThreshold);
    for (let i = 0; i < parameters.length; i++) parameters[i] = (1 - lr * weightDecay) * parameters[i] - factor * updates[i];
  },
};

interface LionAttributes {
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly weightDecay: number;
  readonly gradientScale: number;
}

function lion(gradients: Float32Array, parameters: Float32Array, first: Float32Array, attributes: LionAttributes): void {
  const { lr, beta1, beta2, weightDecay, gradientScale } = attributes;
  const [b1, rest1, b2, rest2] = [beta1, 1 - beta1, beta2, 1 - beta2].map(fround);
  for (let i = 0; i < parameters.length; i++) {
    const g = fround(fround(gradientScale) * gradients[i]);
    parameters[i] = (1 - lr * weightDecay) * parameters[i] - lr * Math.sign(fma(g, rest1, fround(b1 * first[i])));
    first[i] = fma(g, rest2, fround(b2 * first[i]));
  }
}

/** Adafactor's √ of the second moments of a parameter that is no matrix; updates v. */
function plainRoots(v: Operand, squares: Float64Array, beta2: number, shape: readonly number[]): Float64Array {
  const state = v.check(['f32'], shape).values();
  return squares.map((square, i) => {
    state[i] = beta2 * state[i] + (1 - beta2) * square;
    return Math.sqrt(state[i]);
  });
}

/** The same of a matrix, from the means of its rows and columns, which are updated. */
function factoredRoots(row: Operand, column: Operand, squares: Float64Array, beta2: number, shape: readonly number[]): Float64Array {
  const [m, n] = shape;
  const [rows, columns] = [row.check(['f32'], [m]).values(), column.check(['f32'], [n]).values()];
  const [rowSums, columnSums] = [new Float64Array(m), new Float64Array(n)];
  squares.forEach((square, i) => {
    rowSums[Math.floor(i / n)] += square;
    columnSums[i % n] += square;
  });
  rows.forEach((mean, i) => {
    rows[i] = beta2 * mean + ((1 - beta2) * rowSums[i]) / n;
  });
  columns.forEach((mean, j) => {
    columns[j] = beta2 * mean + ((1 - beta2) * columnSums[j]) / m;
  });
  const mean = rows.reduce((sum, x) => sum + x, 0) / m;
  return squares.map((_, i) => Math.sqrt(rows[Math.floor(i / n)] / mean) * Math.sqrt(columns[i % n]));
}
