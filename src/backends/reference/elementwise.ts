import type { ActivationKind } from '../../core/ops.table.js';
import { floats, type Kernels, type Operand } from './operand.js';

/** out[i] = f(x[i], …), every operand a float of the first one's shape. */
function map(out: Operand, inputs: readonly Operand[], f: (x: number, y: number) => number): void {
  for (const operand of [out, ...inputs]) operand.check(floats, inputs[0].shape);
  const [x, y = x] = inputs.map((input) => input.values());
  out.store(x.map((value, i) => f(value, y[i])));
}

/** erfc(x) for x ≥ 0: Abramowitz & Stegun 7.1.6 (a series of positive terms) and, in the tail, the continued fraction 7.1.14. */
function erfc(x: number): number {
  const density = Math.exp(-x * x) / Math.sqrt(Math.PI);
  if (x > 2.5) {
    let fraction = x;
    for (let n = 80; n > 0; n--) fraction = x + n / 2 / fraction;
    return density / fraction;
  }
  let [term, sum] = [x, x];
  for (let n = 1; n < 80; n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return 1 - 2 * density * sum;
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
/** Φ(x) of the standard normal distribution. */
const normal = (x: number) => (x < 0 ? erfc(-x / Math.SQRT2) / 2 : 1 - erfc(x / Math.SQRT2) / 2);
const tanhArgument = (x: number) => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);

interface Activation {
  value(x: number): number;
  slope(x: number): number;
}

/** silu(x) = x·σ(x); gelu_tanh(x) = x·σ(2u), since ½(1 + tanh u) = σ(2u); gelu(x) = x·Φ(x). */
const activations: Readonly<Record<ActivationKind, Activation>> = {
  silu: {
    value: (x) => x * sigmoid(x),
    slope: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))),
  },
  gelu_tanh: {
    value: (x) => x * sigmoid(2 * tanhArgument(x)),
    slope: (x) => {
      const s = sigmoid(2 * tanhArgument(x));
      return s + x * s * (1 - s) * 2 * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
    },
  },
  gelu: {
    value: (x) => x * normal(x),
    slope: (x) => normal(x) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI),
  },
};

export const elementwise: Kernels<
  | 'fill'
  | 'cast'
  | 'add'
  | 'mul'
  | 'accumulate'
  | 'activation'
  | 'activationBackward'
  | 'gated'
  | 'gatedBackward'
  | 'softcap'
  | 'softcapBackward'
> = {
  fill: (_, { out }, { value }) => {
    if (out.dtype === 'i32') out.integers().fill(value);
    else if (out.dtype === 'u8') out.raw().fill(value);
    else out.store(new Float32Array(out.size).fill(value));
  },
  cast: ({ x }, { out }) => {
    for (const operand of [x, out]) operand.check(['f32', 'bf16', 'f16']);
    if (x.size !== out.size) out.refuse(`has ${out.size} elements`, `${x.size}`);
    out.store(x.values());
  },
  add: ({ a, b }, { out }) => map(out, [a, b], (x, y) => x + y),
  mul: ({ a, b }, { out }) => map(out, [a, b], (x, y) => x * y),
  accumulate: ({ x }, { out }, { factor }) => map(out, [out, x], (sum, value) => sum + Math.fround(factor) * value),

  activation: ({ x }, { y }, { kind }) => map(y, [x], activations[kind].value),
  activationBackward: ({ x, dy }, { dx }, { kind }) => {
    const { slope } = activations[kind];
    map(dx, [x, dy], (value, d) => d * slope(value));
  },
  gated: ({ gate, up }, { out }, { kind }) => {
    const { value } = activations[kind];
    map(out, [gate, up], (g, u) => value(g) * u);
  },
  gatedBackward: ({ gate, up, dout }, { dgate, dup }, { kind }) => {
    const { value, slope } = activations[kind];
    for (const operand of [gate, up, dout, dgate, dup]) operand.check(floats, gate.shape);
    const [g, u, d] = [gate, up, dout].map((operand) => operand.values());
    // Both are computed before one is stored: they may share memory with gate and up.
    const results = [g.map((x, i) => d[i] * u[i] * slope(x)), g.map((x, i) => d[i] * value(x))];
    dgate.store(results[0]);
    dup.store(results[1]);
  },
  softcap: ({ x }, { y }, { cap }) => map(y, [x], (value) => cap * Math.tanh(value / cap)),
  softcapBackward: ({ x, dy }, { dx }, { cap }) => map(dx, [x, dy], (value, d) => d * (1 - Math.tanh(value / cap) ** 2)),
};
