import { floats } from '../../../core/operand.js';
import type { OpAttributes, OpInputs, OpOutputs } from '../../../core/ops.table.js';
import type { GpuContext, GpuOps } from '../context.js';
import { type GpuOperand, grid, type Kernel } from '../kernel.js';
import { inWholeWords, runMap } from './elementwise.js';
import { checkWeight, decoder, weightTypes } from './quantized.js';
import { checkMask, keeps } from './random.js';

/** Threads of a workgroup along each side of its tile. */
const side = 16;
/** Steps of K that are staged at a time. */
const depth = 16;

/** One product of the sum that a kernel computes: a [M,K] or, transposed, [K,M] times b [K,N] or, transposed, [N,K]. */
interface Term {
  readonly a: GpuOperand;
  readonly b: GpuOperand;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly K: number;
  /** A mask of a's or b's elements: others are taken for 0. */
  readonly masked?: 'a' | 'b';
  /** After this term the sums are masked and multiplied by maskScale. */
  readonly masksSums?: boolean;
}

type Shape = {
  rows: number;
  columns: number;
  accumulate: boolean;
  rounded: boolean;
  /** Of each term: whether a and b are transposed, what is masked. */
  terms: string;
};

/** Stages a tile of `a` or `b` of term t, [depth, tile] in workgroup memory; neighbouring threads read neighbouring numbers. */
function stage(name: string, t: number, transposed: boolean, extent: string, count: number, origin: string): string {
  const tile = side * count;
  const [k, m] = transposed ? [`at / ${tile}u`, `at % ${tile}u`] : [`at % ${depth}u`, `at / ${depth}u`];
  const place = transposed ? `k * p.${extent} + m` : `m * p.K${t} + k`;
  return `    for (var at = lid; at < ${tile * depth}u; at += ${side * side}u) {
      let k = k0 + ${k};
      let m = ${origin} + ${m};
      var v = 0.0;
      if (k < p.K${t} && m < p.${extent}) { v = ${name}${t}_read(${place}); }
      ${name}_tile[(${k}) * ${tile}u + ${m}] = v;
    }\n`;
}

const product: Kernel<Shape> = {
  name: 'product',
  size: side * side,
  globals: ({ rows, columns, rounded, terms }, has) => {
    const readers = terms.split(' ').flatMap((term, t) => {
      const masked = term.split('/')[1];
      return ['a', 'b'].map((name) => {
        const dtype = has[`${name}${t}`];
        const quantized = name === 'b' && (dtype === 'u4' || dtype === 'i8');
        const number = name === 'b' && t === terms.split(' ').length - 1 ? `b${t}_number(e)` : `${name}${t}_at(e)`;
        const value = rounded && (dtype === 'f32' || quantized) ? `bf16_round(${number})` : number;
        const kept = masked === name ? `if (!keeps(e, ${name === 'a' ? `p.K${t}` : 'p.N'})) { return 0.0; }` : '';
        return `fn ${name}${t}_read(e: u32) -> f32 { ${kept} return ${value}; }\n`;
      });
    });
    const last = terms.split(' ').length - 1;
    return `var<workgroup> a_tile: array<f32, ${side * rows * depth}>;
var<workgroup> b_tile: array<f32, ${side * columns * depth}>;
${keeps(has.mask)}${decoder(`b${last}`, has[`b${last}`], has.absmax)}${readers.join('')}
fn rest(i: u32) -> f32 { return ${has.residual ? 'residual_at(i)' : '0.0'}; }\n`;
  },
  main: ({ rows, columns, accumulate, terms }) => {
    const all = terms.split(' ').map((term, t) => {
      const [transposes, , masksSums] = term.split('/');
      const [transposeA, transposeB] = [transposes[0] === 'T', transposes[1] === 'T'];
      return `  for (var k0 = 0u; k0 < p.K${t}; k0 += ${depth}u) {
${stage('a', t, transposeA, 'M', rows, 'top')}${stage('b', t, !transposeB, 'N', columns, 'left')}    workgroupBarrier();
    for (var k = 0u; k < ${depth}u; k++) {
      for (var j = 0u; j < ${columns}u; j++) { right[j] = b_tile[k * ${side * columns}u + x * ${columns}u + j]; }
      for (var i = 0u; i < ${rows}u; i++) {
        let left_factor = a_tile[k * ${side * rows}u + y * ${rows}u + i];
        for (var j = 0u; j < ${columns}u; j++) { sums[i * ${columns}u + j] += left_factor * right[j]; }
      }
    }
    workgroupBarrier();
  }
${
  masksSums
    ? `  for (var i = 0u; i < ${rows}u; i++) { for (var j = 0u; j < ${columns}u; j++) {
    let at = (top + y * ${rows}u + i) * p.N + left + x * ${columns}u + j;
    sums[i * ${columns}u + j] = select(0.0, p.maskScale * sums[i * ${columns}u + j], keeps(at, p.N));
  } }\n`
    : ''
}`;
    });
    return `  let tiles = (p.N + ${side * columns - 1}u) / ${side * columns}u;
  let tile = group.y * groups.x + group.x;
  if (tile >= tiles * ((p.M + ${side * rows - 1}u) / ${side * rows}u)) { return; }
  let top = (tile / tiles) * ${side * rows}u;
  let left = (tile % tiles) * ${side * columns}u;
  let x = lid % ${side}u;
  let y = lid / ${side}u;
  var sums: array<f32, ${rows * columns}>;
  var right: array<f32, ${columns}>;
${all.join('')}
  for (var i = 0u; i < ${rows}u; i++) {
    let row = top + y * ${rows}u + i;
    if (row >= p.M) { return; }
    for (var j = 0u; j < ${columns}u; j += 2u) {
      let column = left + x * ${columns}u + j;
      if (column >= p.N) { break; }
      let both = column + 1u < p.N;
      let at = row * p.N + column;
      let next = select(at, at + 1u, both);
      var v = p.alpha * vec2f(sums[i * ${columns}u + j], sums[i * ${columns}u + j + 1u]);
      v += vec2f(rest(at), rest(next));
${accumulate ? '      v += vec2f(out_at(at), out_at(next));\n' : ''}      out_put(at, v, both);
    }
  }`;
  },
};

interface Product {
  readonly terms: readonly Term[];
  /** Of the last term's b, where it is quantised. */
  readonly absmax?: GpuOperand;
  readonly constants?: GpuOperand;
  readonly mask?: GpuOperand;
  readonly maskScale?: number;
  readonly residual?: GpuOperand;
  readonly alpha?: number;
  readonly accumulate?: boolean;
  /** Whether all factors are rounded to bf16. */
  readonly rounded: boolean;
}

/** out [M,N] = alpha · Σ terms (+ residual) (+ out). */
function multiply(context: GpuContext, out: GpuOperand, options: Product): void {
  const { terms, absmax, constants, mask, residual, alpha = 1, accumulate = false, maskScale = 1, rounded } = options;
  const [M, N] = out.shape;
  const described = terms.map(({ transposeA, transposeB, masked, masksSums }) =>
    [(transposeA ? 'T' : 'N') + (transposeB ? 'T' : 'N'), masked ?? '', masksSums ? 'sums' : ''].join('/'),
  );
  const shape: Shape = { rows: M <= side ? 1 : 4, columns: N <= 2 * side ? 2 : 4, accumulate, rounded, terms: described.join(' ') };
  const factors = Object.fromEntries(terms.flatMap(({ a, b }, t) => [[`a${t}`, a] as const, [`b${t}`, b] as const]));
  const lastB = terms[terms.length - 1];
  inWholeWords(context, out, accumulate, (target) => {
    context.dispatch({
      kernel: product,
      constants: shape,
      reads: { ...factors, absmax, constants, mask, residual },
      writes: { out: target },
      integers: { M, N, ...Object.fromEntries(terms.map(({ K }, t) => [`K${t}`, K])), inputs: lastB.b.shape[1] },
      numbers: { alpha, maskScale },
      groups: grid(Math.ceil(M / (side * shape.rows)) * Math.ceil(N / (side * shape.columns)), 1),
    });
  });
}

const plain = { transposeA: false, transposeB: false };
const isHalf = (...operands: GpuOperand[]) => operands.some(({ dtype }) => dtype === 'bf16');

/** The shapes of a layer with a low-rank update; throws where they do not fit. */
function checkLora(
  { weight, A, B, mask, absmax, constants }: Omit<OpInputs<'loraLinear', GpuOperand>, 'x' | 'residual'>,
  rows: GpuOperand,
  width: 'inputs' | 'outputs',
): { T: number; inputs: number; outputs: number; r: number } {
  const [outputs, inputs] = weight.check(weightTypes, [-1, -1]).shape;
  checkWeight(weight, absmax, constants);
  const [T] = rows.check(floats, [-1, width === 'inputs' ? inputs : outputs]).shape;
  const [r] = A.check(floats, [-1, inputs]).shape;
  B.check(floats, [outputs, r]);
  checkMask(mask, T, inputs);
  return { T, inputs, outputs, r };
}

function loraLinear(
  inputs: OpInputs<'loraLinear', GpuOperand>,
  { y, h }: OpOutputs<'loraLinear', GpuOperand>,
  { scale, maskScale }: OpAttributes<'loraLinear'>,
  context: GpuContext,
): void {
  const { x, weight, A, B, mask, residual, absmax, constants } = inputs;
  const shape = checkLora(inputs, x, 'inputs');
  h.check(floats, [shape.T, shape.r]);
  y?.check(floats, [shape.T, shape.outputs]);
  residual?.check(floats, [shape.T, shape.outputs]);
  const rounded = isHalf(x, weight);
  const down: Term = { a: x, b: A, transposeA: false, transposeB: true, K: shape.inputs, masked: mask && 'a' };
  multiply(context, h, { terms: [down], mask, alpha: mask ? scale * maskScale : scale, rounded });
  if (!y) return;
  const up: Term = { a: h, b: B, transposeA: false, transposeB: true, K: shape.r };
  const base: Term = { a: x, b: weight, transposeA: false, transposeB: true, K: shape.inputs };
  multiply(context, y, { terms: [up, base], absmax, constants, residual, rounded });
}

function loraLinearBackward(
  inputs: OpInputs<'loraLinearBackward', GpuOperand>,
  { dx, dh }: OpOutputs<'loraLinearBackward', GpuOperand>,
  { scale, maskScale }: OpAttributes<'loraLinearBackward'>,
  context: GpuContext,
): void {
  const { dy, weight, A, B, mask, residual, absmax, constants } = inputs;
  const shape = checkLora(inputs, dy, 'outputs');
  dh.check(floats, [shape.T, shape.r]);
  dx.check(floats, [shape.T, shape.inputs]);
  residual?.check(floats, [shape.T, shape.inputs]);
  const rounded = isHalf(dy, weight);
  multiply(context, dh, { terms: [{ ...plain, a: dy, b: B, K: shape.outputs }], alpha: scale, rounded });
  const update: Term = { ...plain, a: dh, b: A, K: shape.r, masksSums: mask !== undefined };
  const base: Term = { ...plain, a: dy, b: weight, K: shape.outputs };
  multiply(context, dx, { terms: [update, base], absmax, constants, mask, maskScale, residual, rounded });
}

/** Each thread adds up a column. */
const columnSum: Kernel = {
  name: 'columnSum',
  size: 64,
  main: () => `  if (thread >= p.columns) { return; }
  var sum = out_at(thread);
  for (var t = 0u; t < p.rows; t++) { sum += x_at(t * p.columns + thread); }
  out_set(thread, sum);`,
};

export const products: GpuOps<'matmul' | 'loraLinear' | 'loraLinearBackward' | 'loraGradients' | 'addBias' | 'columnSum'> = {
  matmul: ({ a, b, absmax, constants }, { out }, { transposeA, transposeB, alpha, accumulate }, context) => {
    a.check(floats, [-1, -1]);
    const [M, K] = transposeA ? [a.shape[1], a.shape[0]] : a.shape;
    b.check(weightTypes, transposeB ? [-1, K] : [K, -1]);
    checkWeight(b, absmax, constants);
    out.check(floats, [M, transposeB ? b.shape[0] : b.shape[1]]);
    const terms = [{ a, b, transposeA, transposeB, K }];
    multiply(context, out, { terms, absmax, constants, alpha, accumulate, rounded: isHalf(a, b) });
  },
  loraLinear,
  loraLinearBackward,
  loraGradients: ({ x, h, dy, dh, mask }, { dA, dB }, { maskScale }, context) => {
    const [T, inputs] = x.check(floats, [-1, -1]).shape;
    const [, outputs] = dy.check(floats, [T, -1]).shape;
    const [, r] = h.check(floats, [T, -1]).shape;
    dh.check(floats, [T, r]);
    checkMask(mask, T, inputs);
    const down: Term = { a: dh, b: x, transposeA: true, transposeB: false, K: T, masked: mask && 'b' };
    const alpha = mask ? maskScale : 1;
    multiply(context, dA.check(floats, [r, inputs]), { terms: [down], mask, alpha, rounded: isHalf(dh, x) });
    const up: Term = { a: dy, b: h, transposeA: true, transposeB: false, K: T };
    multiply(context, dB.check(floats, [outputs, r]), { terms: [up], rounded: isHalf(dy, h) });
  },
  addBias: ({ x, bias }, { out }, _, context) => {
    const [, columns] = x.check(floats, [-1, -1]).shape;
    bias.check(floats, [columns]);
    out.check(floats, x.shape);
    const formulas = 'out=x_at(i) + bias_at(i % p.columns)';
    runMap(context, { reads: { x, bias }, writes: { out }, formulas, integers: { columns } });
  },
  columnSum: ({ x }, { out }, _, { dispatch }) => {
    const [rows, columns] = x.check(floats, [-1, -1]).shape;
    out.check(['f32'], [columns]);
    dispatch({ kernel: columnSum, reads: { x }, writes: { out }, integers: { rows, columns }, groups: grid(columns, 64) });
  },
};
