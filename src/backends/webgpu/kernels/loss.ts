import { floats } from '../../../core/operand.js';
import type { GpuContext, GpuOps } from '../context.js';
import { type GpuOperand, grid, type Kernel } from '../kernel.js';
import { bounded, inWholeWords } from './elementwise.js';
import { reductions } from './reduce.js';

const size = 256;

const crossEntropy: Kernel<{ capped: boolean }> = {
  name: 'crossEntropy',
  size,
  globals: ({ capped }, { weights }) => `${reductions(size)}${bounded}
fn weight(row: u32) -> f32 { return ${weights ? 'weights_at(row)' : '1.0'}; }
fn capped_at(i: u32) -> f32 { return ${capped ? 'p.softcap * bounded(logits_at(i) / p.softcap)' : 'logits_at(i)'}; }
fn slope_at(i: u32) -> f32 { ${capped ? 'let t = bounded(logits_at(i) / p.softcap); return (1.0 - t) * (1.0 + t);' : 'return 1.0;'} }\n`,
  main: (_, { gradient }) => `  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.columns;
  let label = labels_at(row);
  var largest = -3.4028234e38;
  for (var c = lid; c < p.columns; c += ${size}u) { largest = max(largest, capped_at(start + c)); }
  largest = max_of_all(lid, largest);
  var total = 0.0;
  for (var c = lid; c < p.columns; c += ${size}u) { total += exp(capped_at(start + c) - largest); }
  total = sum_of_all(lid, total);
  let known = label >= 0;
  if (lid == 0u) { losses_set(row, select(0.0, (largest - capped_at(start + u32(max(label, 0)))) + log(total), known)); }
${
  gradient
    ? `  workgroupBarrier();
  let factor = select(0.0, p.scale * weight(row), known);
  for (var c = 2u * lid; c < p.columns; c += ${2 * size}u) {
    let both = c + 1u < p.columns;
    let at = vec2u(c, select(c, c + 1u, both));
    let hit = vec2f(select(0.0, 1.0, i32(at.x) == label), select(0.0, 1.0, i32(at.y) == label));
    let v = exp(vec2f(capped_at(start + at.x), capped_at(start + at.y)) - largest) / total;
    let slopes = vec2f(slope_at(start + at.x), slope_at(start + at.y));
    gradient_put(start + c, factor * (v - hit) * slopes, both);
  }`
    : ''
}`,
};

const argmax: Kernel = {
  name: 'argmax',
  size,
  globals: () => `var<workgroup> best: array<f32, ${size}>;\nvar<workgroup> place: array<i32, ${size}>;\n`,
  main: () => `  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; }
  var found = -1;
  var largest = bitcast<f32>(p.lowest);
  for (var c = lid; c < p.columns; c += ${size}u) {
    let v = x_at(row * p.columns + c);
    if (v > largest) { largest = v; found = i32(c); }
  }
  best[lid] = largest;
  place[lid] = found;
  workgroupBarrier();
  if (lid != 0u) { return; }
  for (var other = 1u; other < ${size}u; other++) {
    let v = best[other];
    if (place[other] >= 0 && (v > largest || (v == largest && place[other] < found))) { largest = v; found = place[other]; }
  }
  index_set(row, found);`,
};

/** Sums of parts of x, one a workgroup; then, with one workgroup, their sum times a factor onto out. */
const partSums: Kernel<{ power: number }> = {
  name: 'partSums',
  size,
  globals: () => reductions(size),
  main: ({ power }) => `  var sum = 0.0;
  for (var i = thread; i < p.n; i += groups.x * ${size}u) { let v = x_at(i); sum += ${power === 2 ? 'v * v' : 'v'}; }
  sum = sum_of_all(lid, sum);
  if (lid == 0u) { sums_set(group.x, sum); }`,
};
const wholeSum: Kernel = {
  name: 'wholeSum',
  size,
  globals: () => reductions(size),
  main: () => `  var part = 0.0;
  if (lid < p.n) { part = sums_at(lid); }
  let sum = sum_of_all(lid, part);
  if (lid == 0u) { out_set(0u, out_at(0u) + p.factor * sum); }`,
};

function addSum({ dispatch, scratch }: GpuContext, x: GpuOperand, out: GpuOperand, power: number, factor: number): void {
  x.check(floats);
  out.check(['f32'], [1]);
  // One workgroup adds up at least 64 numbers a thread.
  const count = Math.max(1, Math.min(size, Math.ceil(x.size / (64 * size))));
  const sums = scratch('f32', [count]);
  dispatch({ kernel: partSums, constants: { power }, reads: { x }, writes: { sums }, integers: { n: x.size }, groups: [count, 1, 1] });
  dispatch({ kernel: wholeSum, reads: { sums }, writes: { out }, integers: { n: count }, numbers: { factor }, groups: [1, 1, 1] });
}

export const lossOps: GpuOps<'crossEntropy' | 'sum' | 'sumSquares' | 'argmax'> = {
  crossEntropy: ({ logits, labels, weights }, { losses, gradient }, { scale, softcap }, context) => {
    const [rows, columns] = logits.check(['f32'], [-1, -1]).shape;
    labels.check(['i32'], [rows]);
    weights?.check(['f32'], [rows]);
    losses.check(['f32'], [rows]);
    gradient?.check(floats, logits.shape);
    context.checkIndices(labels, -(2 ** 31), columns);
    const run = (target: GpuOperand | undefined) => {
      const reads = { logits, labels, weights };
      const writes = { losses, gradient: target };
      const constants = { capped: softcap > 0 };
      const numbers = { scale, softcap };
      context.dispatch({ kernel: crossEntropy, constants, reads, writes, integers: { rows, columns }, numbers, groups: grid(rows, 1) });
    };
    if (gradient) inWholeWords(context, gradient, false, run);
    else run(undefined);
  },
  sum: ({ x }, { out }, { factor }, context) => addSum(context, x, out, 1, factor),
  sumSquares: ({ x }, { out }, _, context) => addSum(context, x, out, 2, 1),
  argmax: ({ x }, { index }, _, { dispatch }) => {
    const [rows, columns] = x.check(floats, [-1, -1]).shape;
    index.check(['i32'], [rows]);
    // WGSL has no literal of −∞.
    const integers = { rows, columns, lowest: 0xff80_0000 };
    dispatch({ kernel: argmax, reads: { x }, writes: { index }, integers, groups: grid(rows, 1) });
  },
};
