import type { DType } from '../../../core/dtype.js';
import { floats } from '../../../core/operand.js';
import type { ActivationKind } from '../../../core/ops.table.js';
import { toBf16, toF16 } from '../../../util/half.js';
import type { GpuContext, GpuOps } from '../context.js';
import { type GpuOperand, grid, type Kernel } from '../kernel.js';
import { perWord } from '../wgsl.js';

const size = 64;

/** The functions of MLPs and their slopes: silu(x) = x·σ(x); gelu_tanh(x) = x·σ(2u), since ½(1 + tanh u) = σ(2u); gelu(x) = x·Φ(x). */
export const activationFunctions: Readonly<Record<ActivationKind, string>> = {
  silu: /* wgsl */ `
fn activation(x: f32) -> f32 { return x * sigmoid(x); }
fn slope(x: f32) -> f32 { let s = sigmoid(x); return s * (1.0 + x * (1.0 - s)); }
`,
  gelu_tanh: /* wgsl */ `
fn argument(x: f32) -> f32 { return 2.0 * 0.7978845608 * (x + 0.044715 * x * x * x); }
fn activation(x: f32) -> f32 { return x * sigmoid(argument(x)); }
fn slope(x: f32) -> f32 {
  let s = sigmoid(argument(x));
  return s + x * s * (1.0 - s) * 2.0 * 0.7978845608 * (1.0 + 3.0 * 0.044715 * x * x);
}
`,
  // Φ as e^(−x²/2)·g(1/(1 + 0.35·|x|)), g a minimax polynomial (as native/kernels/simd.h), so that it stays accurate where 1 + erf cancels.
  gelu: /* wgsl */ `
fn normal(x: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.35 * abs(x));
  var g = -0.029145284;
  g = g * t + 0.14396851;
  g = g * t - 0.25570753;
  g = g * t + 0.15916632;
  g = g * t - 0.023104291;
  g = g * t + 0.105505586;
  g = g * t + 0.1198335;
  g = g * t + 0.13986178;
  g = g * t + 0.1396214;
  let tail = exp(-0.5 * x * x) * (g * t);
  return select(1.0 - tail, tail, x < 0.0);
}
fn activation(x: f32) -> f32 { return x * normal(x); }
fn slope(x: f32) -> f32 { return normal(x) + x * (exp(-0.5 * x * x) * 0.39894228); }
`,
};

/** e^x of a large negative x is 0, and its inverse would be infinite. */
const sigmoid = /* wgsl */ `
fn sigmoid(x: f32) -> f32 {
  let e = exp(-abs(x));
  let s = 1.0 / (1.0 + e);
  return select(e * s, s, x >= 0.0);
}
`;

/** tanh; beyond 10 it is 1 in f32, and its exponentials might overflow. */
export const bounded = 'fn bounded(x: f32) -> f32 { return tanh(clamp(x, -10.0, 10.0)); }\n';

type MapConstants = { formulas: string; globals: string };

/** Each thread makes two neighbours of every output: formulas of `i` by output, parted by `;`. */
const map: Kernel<MapConstants> = {
  name: 'map',
  size,
  globals: ({ globals }) => globals,
  main: ({ formulas }) => {
    const outputs = formulas.split(';').map((formula) => formula.split('=') as [name: string, value: string]);
    const each = (i: string, j: string) => outputs.map(([name, value]) => `let ${name}_${j} = ${value.replace(/\bi\b/g, i)};`).join('\n  ');
    return `  let first = p.begin + 2u * thread;
  if (first >= p.end) { return; }
  let both = first + 1u < p.end;
  let second = select(first, first + 1u, both);
  ${each('first', 'a')}
  ${each('second', 'b')}
  ${outputs.map(([name]) => `${name}_put(first, vec2f(${name}_a, ${name}_b), both);`).join('\n  ')}`;
  },
};

type Named = Readonly<Record<string, GpuOperand>>;

interface Mapping {
  readonly reads: Readonly<Record<string, GpuOperand | undefined>>;
  readonly writes: Named;
  readonly formulas: string;
  readonly integers?: Readonly<Record<string, number>>;
  readonly numbers?: Readonly<Record<string, number>>;
  readonly globals?: string;
  /** The elements that are written; default all. The first has an even place. */
  readonly from?: number;
  readonly to?: number;
}

/** outputs[i] = formula of what is read, at each of their elements. */
export function runMap({ dispatch }: GpuContext, { reads, writes, formulas, globals = '', ...rest }: Mapping): void {
  const { from = 0, to = Object.values(writes)[0].size, numbers } = rest;
  const integers = { begin: from, end: to, ...rest.integers };
  dispatch({
    kernel: map,
    constants: { formulas, globals },
    reads,
    writes,
    integers,
    numbers,
    groups: grid(Math.ceil((to - from) / 2), size),
  });
}

/**
 * Gives `body` an output of f32 in place of one of 16 bits whose rows have an odd length: a word of two numbers then belongs to two rows,
 * and so to two threads. `before`: what is there matters.
 */
export function inWholeWords(
  context: GpuContext,
  out: GpuOperand,
  before: boolean,
  body: (out: GpuOperand) => void,
  width = out.shape[out.shape.length - 1],
): void {
  if (out.dtype === 'f32' || width % 2 === 0) {
    body(out);
    return;
  }
  const wide = context.scratch('f32', out.shape);
  if (before) runMap(context, { reads: { x: out }, writes: { y: wide }, formulas: 'y=x_at(i)' });
  body(wide);
  runMap(context, { reads: { x: wide }, writes: { y: out }, formulas: 'y=x_at(i)' });
}

function checkAlike(operands: readonly GpuOperand[]): void {
  for (const operand of operands) operand.check(floats, operands[0].shape);
}

/** Writes a pattern to every word of the only operand, keeping the bytes behind the last element. */
const fillWords: Kernel = {
  name: 'fill',
  size,
  main: () => `  if (thread >= p.words) { return; }
  let w = p.out_0 / p.perWord + thread;
  let last = thread + 1u == p.words;
  m0[w] = select(p.pattern, (p.pattern & p.mask) | (m0[w] & ~p.mask), last);`,
};

const patterns: Readonly<Partial<Record<DType, (value: number) => number>>> = {
  f32: (value) => new Uint32Array(Float32Array.of(value).buffer)[0],
  i32: (value) => value >>> 0,
  bf16: (value) => toBf16(value) * 0x1_0001,
  f16: (value) => toF16(value) * 0x1_0001,
  u8: (value) => (value & 0xff) * 0x101_0101,
};

export const elementwise: GpuOps<
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
  fill: (_, { out }, { value }, { dispatch }) => {
    out.check(['f32', 'i32', 'bf16', 'f16', 'u8']);
    const words = Math.ceil(out.bytes / 4);
    const rest = out.bytes % 4;
    const integers = {
      words,
      pattern: patterns[out.dtype]!(value),
      mask: rest === 0 ? 0xffff_ffff : 2 ** (8 * rest) - 1,
      perWord: perWord[out.dtype],
    };
    dispatch({ kernel: fillWords, writes: { out }, integers, groups: grid(words, size) });
  },
  cast: ({ x }, { out }, _, context) => {
    for (const operand of [x, out]) operand.check(['f32', 'bf16', 'f16']);
    if (x.size !== out.size) out.refuse(`has ${out.size} elements`, `${x.size}`);
    runMap(context, { reads: { x }, writes: { out }, formulas: 'out=x_at(i)' });
  },
  add: ({ a, b }, { out }, _, context) => {
    checkAlike([a, b, out]);
    runMap(context, { reads: { a, b }, writes: { out }, formulas: 'out=a_at(i) + b_at(i)' });
  },
  mul: ({ a, b }, { out }, _, context) => {
    checkAlike([a, b, out]);
    runMap(context, { reads: { a, b }, writes: { out }, formulas: 'out=a_at(i) * b_at(i)' });
  },
  accumulate: ({ x }, { out }, { factor }, context) => {
    checkAlike([x, out]);
    runMap(context, { reads: { x }, writes: { out }, formulas: 'out=out_at(i) + p.factor * x_at(i)', numbers: { factor } });
  },
  activation: ({ x }, { y }, { kind }, context) => {
    checkAlike([x, y]);
    runMap(context, { reads: { x }, writes: { y }, formulas: 'y=activation(x_at(i))', globals: sigmoid + activationFunctions[kind] });
  },
  activationBackward: ({ x, dy }, { dx }, { kind }, context) => {
    checkAlike([x, dy, dx]);
    runMap(context, {
      reads: { x, dy },
      writes: { dx },
      formulas: 'dx=dy_at(i) * slope(x_at(i))',
      globals: sigmoid + activationFunctions[kind],
    });
  },
  gated: ({ gate, up }, { out }, { kind }, context) => {
    checkAlike([gate, up, out]);
    runMap(context, {
      reads: { gate, up },
      writes: { out },
      formulas: 'out=activation(gate_at(i)) * up_at(i)',
      globals: sigmoid + activationFunctions[kind],
    });
  },
  gatedBackward: ({ gate, up, dout }, { dgate, dup }, { kind }, context) => {
    checkAlike([gate, up, dout, dgate, dup]);
    const formulas = 'dgate=dout_at(i) * up_at(i) * slope(gate_at(i));dup=dout_at(i) * activation(gate_at(i))';
    runMap(context, {
      reads: { gate, up, dout },
      writes: { dgate, dup },
      formulas: formulas,
      globals: sigmoid + activationFunctions[kind],
    });
  },
  softcap: ({ x }, { y }, { cap }, context) => {
    checkAlike([x, y]);
    runMap(context, { reads: { x }, writes: { y }, formulas: 'y=p.cap * bounded(x_at(i) / p.cap)', numbers: { cap }, globals: bounded });
  },
  softcapBackward: ({ x, dy }, { dx }, { cap }, context) => {
    checkAlike([x, dy, dx]);
    const globals = `${bounded}fn slope(t: f32) -> f32 { return (1.0 - t) * (1.0 + t); }\n`;
    const formulas = 'dx=dy_at(i) * slope(bounded(x_at(i) / p.cap))';
    runMap(context, { reads: { x, dy }, writes: { dx }, formulas, numbers: { cap }, globals });
  },
};
