import { floats } from '../../../core/operand.js';
import type { GpuOps } from '../context.js';
import { grid, type Kernel } from '../kernel.js';
import { inWholeWords } from './elementwise.js';
import { reductions } from './reduce.js';

const size = 128;

/** The row of a workgroup, in a grid of rows. */
const row = /* wgsl */ `  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.columns;
`;
/** Goes through a row, two neighbours at a time. */
const pairs = (body: string) => `  for (var c = 2u * lid; c < p.columns; c += ${2 * size}u) {
    let both = c + 1u < p.columns;
    let d = select(c, c + 1u, both);
${body}
  }
`;
const each = (body: string) => `  for (var c = lid; c < p.columns; c += ${size}u) { ${body} }\n`;

const rmsNorm: Kernel = {
  name: 'rmsNorm',
  size,
  globals: () => reductions(size),
  main: () => `${row}  var squares = 0.0;
${each('let v = x_at(start + c); squares += v * v;')}
  let mean = sum_of_all(lid, squares) / f32(p.columns);
  let factor = 1.0 / sqrt(mean + p.eps);
  if (lid == 0u) { rstd_set(row, factor); }
${pairs(`    let v = vec2f(x_at(start + c), x_at(start + d)) * factor;
    y_put(start + c, v * (vec2f(weight_at(c), weight_at(d)) + p.offset), both);`)}`,
};

const rmsNormBackward: Kernel = {
  name: 'rmsNormBackward',
  size,
  globals: (_, { residual }) => `${reductions(size)}
fn rest(i: u32) -> f32 { return ${residual ? 'residual_at(i)' : '0.0'}; }\n`,
  main: () => `${row}  let factor = rstd_at(row);
  var products = 0.0;
${each('products += dy_at(start + c) * (weight_at(c) + p.offset) * x_at(start + c) * factor;')}
  let mean = sum_of_all(lid, products) / f32(p.columns);
${pairs(`    let normed = vec2f(x_at(start + c), x_at(start + d)) * factor;
    let g = vec2f(dy_at(start + c), dy_at(start + d)) * (vec2f(weight_at(c), weight_at(d)) + p.offset);
    dx_put(start + c, vec2f(rest(start + c), rest(start + d)) + factor * (g - normed * mean), both);`)}`,
};

/** Each thread adds up a column. */
const weightGradient: Kernel = {
  name: 'rmsNormWeightGradient',
  size: 64,
  main: () => `  if (thread >= p.columns) { return; }
  var sum = 0.0;
  for (var t = 0u; t < p.rows; t++) { sum += dy_at(t * p.columns + thread) * x_at(t * p.columns + thread) * rstd_at(t); }
  dweight_set(thread, dweight_at(thread) + sum);`,
};

const layerNorm: Kernel = {
  name: 'layerNorm',
  size,
  globals: (_, { bias }) => `${reductions(size)}
fn shift(c: u32) -> f32 { return ${bias ? 'bias_at(c)' : '0.0'}; }\n`,
  main: () => `${row}  var sum = 0.0;
${each('sum += x_at(start + c);')}
  let middle = sum_of_all(lid, sum) / f32(p.columns);
  var squares = 0.0;
${each('let v = x_at(start + c) - middle; squares += v * v;')}
  let factor = 1.0 / sqrt(sum_of_all(lid, squares) / f32(p.columns) + p.eps);
  if (lid == 0u) {
    mean_set(row, middle);
    rstd_set(row, factor);
  }
${pairs(`    let v = (vec2f(x_at(start + c), x_at(start + d)) - middle) * factor;
    y_put(start + c, v * vec2f(weight_at(c), weight_at(d)) + vec2f(shift(c), shift(d)), both);`)}`,
};

const layerNormBackward: Kernel = {
  name: 'layerNormBackward',
  size,
  globals: (_, { residual }) => `${reductions(size)}
fn rest(i: u32) -> f32 { return ${residual ? 'residual_at(i)' : '0.0'}; }\n`,
  main: () => `${row}  let factor = rstd_at(row);
  let middle = mean_at(row);
  var sum = 0.0;
  var products = 0.0;
${each('let g = dy_at(start + c) * weight_at(c); sum += g; products += g * (x_at(start + c) - middle) * factor;')}
  let mean_g = sum_of_all(lid, sum) / f32(p.columns);
  let mean_product = sum_of_all(lid, products) / f32(p.columns);
${pairs(`    let normed = (vec2f(x_at(start + c), x_at(start + d)) - middle) * factor;
    let g = vec2f(dy_at(start + c), dy_at(start + d)) * vec2f(weight_at(c), weight_at(d));
    dx_put(start + c, vec2f(rest(start + c), rest(start + d)) + factor * (g - mean_g - normed * mean_product), both);`)}`,
};

/** Each thread adds up a column. */
const layerWeightGradient: Kernel = {
  name: 'layerNormWeightGradient',
  size: 64,
  main: () => `  if (thread >= p.columns) { return; }
  var sum = 0.0;
  for (var t = 0u; t < p.rows; t++) {
    let at = t * p.columns + thread;
    sum += dy_at(at) * (x_at(at) - mean_at(t)) * rstd_at(t);
  }
  dweight_set(thread, dweight_at(thread) + sum);`,
};

const softmax: Kernel = {
  name: 'softmax',
  size,
  globals: (_, has) => `${reductions(size)}
fn with_sink(v: f32) -> f32 { return ${has.sink ? 'max(v, sink_at(0u))' : 'v'}; }
fn sink(largest: f32) -> f32 { return ${has.sink ? 'exp(sink_at(0u) - largest)' : '0.0'}; }\n`,
  main: () => `${row}  let reach = i32(row) + bitcast<i32>(p.offset) + 1;
  let end = u32(clamp(reach, 0, i32(p.columns)));
  let window = i32(p.window);
  let begin = u32(select(max(0, reach - window), 0, window == 0));
  var largest = -3.4028234e38;
  for (var c = begin + lid; c < end; c += ${size}u) { largest = max(largest, x_at(start + c)); }
  largest = with_sink(max_of_all(lid, largest));
  var total = 0.0;
  for (var c = begin + lid; c < end; c += ${size}u) { total += exp(x_at(start + c) - largest); }
  total = sum_of_all(lid, total) + sink(largest);
${each('y_set(start + c, select(0.0, exp(x_at(start + c) - largest) / total, c >= begin && c < end));')}`,
};

const softmaxBackward: Kernel = {
  name: 'softmaxBackward',
  size,
  globals: () => reductions(size),
  main: () => `${row}  var total = 0.0;
${each('total += y_at(start + c) * dy_at(start + c);')}
  total = sum_of_all(lid, total);
${each('dx_set(start + c, y_at(start + c) * (dy_at(start + c) - total));')}`,
};

/** One thread adds up what the rows say of the sink. */
const sinkGradient: Kernel = {
  name: 'softmaxSinkGradient',
  size: 1,
  main: () => `  var sum = 0.0;
  for (var r = 0u; r < p.rows; r++) {
    var kept = 0.0;
    var products = 0.0;
    for (var c = 0u; c < p.columns; c++) {
      let y = y_at(r * p.columns + c);
      kept += y;
      products += y * dy_at(r * p.columns + c);
    }
    sum += (1.0 - kept) * products;
  }
  dsink_set(0u, dsink_at(0u) - sum);`,
};

export const norms: GpuOps<'rmsNorm' | 'rmsNormBackward' | 'layerNorm' | 'layerNormBackward' | 'softmax' | 'softmaxBackward'> = {
  rmsNorm: ({ x, weight }, { y, rstd }, { eps, offset }, context) => {
    const [rows, columns] = x.check(floats, [-1, -1]).shape;
    weight.check(floats, [columns]);
    y.check(floats, x.shape);
    rstd.check(['f32'], [rows]);
    inWholeWords(context, y, false, (y) => {
      const groups = grid(rows, 1);
      context.dispatch({
        kernel: rmsNorm,
        reads: { x, weight },
        writes: { y, rstd },
        integers: { rows, columns },
        numbers: { eps, offset },
        groups,
      });
    });
  },
  rmsNormBackward: ({ x, weight, rstd, dy, residual }, { dx, dweight }, { offset }, context) => {
    const [rows, columns] = x.check(floats, [-1, -1]).shape;
    for (const operand of [dy, dx, ...(residual ? [residual] : [])]) operand.check(floats, x.shape);
    weight.check(floats, [columns]);
    rstd.check(['f32'], [rows]);
    const integers = { rows, columns };
    // Before dx, which may be the residual's memory, but never dy's or x's.
    if (dweight) {
      dweight.check(['f32'], [columns]);
      context.dispatch({ kernel: weightGradient, reads: { x, dy, rstd }, writes: { dweight }, integers, groups: grid(columns, 64) });
    }
    inWholeWords(context, dx, false, (dx) => {
      const reads = { x, weight, rstd, dy, residual };
      context.dispatch({ kernel: rmsNormBackward, reads, writes: { dx }, integers, numbers: { offset }, groups: grid(rows, 1) });
    });
  },
  layerNorm: ({ x, weight, bias }, { y, mean, rstd }, { eps }, context) => {
    const [rows, columns] = x.check(floats, [-1, -1]).shape;
    weight.check(floats, [columns]);
    bias?.check(floats, [columns]);
    y.check(floats, x.shape);
    for (const statistic of [mean, rstd]) statistic.check(['f32'], [rows]);
    inWholeWords(context, y, false, (y) => {
      const [reads, integers] = [
        { x, weight, bias },
        { rows, columns },
      ];
      context.dispatch({ kernel: layerNorm, reads, writes: { y, mean, rstd }, integers, numbers: { eps }, groups: grid(rows, 1) });
    });
  },
  layerNormBackward: ({ x, weight, mean, rstd, dy, residual }, { dx, dweight }, _, context) => {
    const [rows, columns] = x.check(floats, [-1, -1]).shape;
    for (const operand of [dy, dx, ...(residual ? [residual] : [])]) operand.check(floats, x.shape);
    weight.check(floats, [columns]);
    for (const statistic of [mean, rstd]) statistic.check(['f32'], [rows]);
    const integers = { rows, columns };
    if (dweight) {
      dweight.check(['f32'], [columns]);
      const reads = { x, dy, mean, rstd };
      context.dispatch({ kernel: layerWeightGradient, reads, writes: { dweight }, integers, groups: grid(columns, 64) });
    }
    inWholeWords(context, dx, false, (dx) => {
      const reads = { x, weight, mean, rstd, dy, residual };
      context.dispatch({ kernel: layerNormBackward, reads, writes: { dx }, integers, groups: grid(rows, 1) });
    });
  },
  softmax: ({ x, sink }, { y }, { offset, window }, { dispatch }) => {
    const [rows, columns] = x.check(['f32'], [-1, -1]).shape;
    y.check(['f32'], x.shape);
    sink?.check(['f32'], [1]);
    const integers = { rows, columns, offset: offset >>> 0, window };
    dispatch({ kernel: softmax, reads: { x, sink }, writes: { y }, integers, groups: grid(rows, 1) });
  },
  softmaxBackward: ({ y, dy }, { dx, dsink }, _, { dispatch }) => {
    const [rows, columns] = y.check(['f32'], [-1, -1]).shape;
    for (const operand of [dy, dx]) operand.check(['f32'], y.shape);
    // Before dx, which may be dy's memory.
    if (dsink) {
      dsink.check(['f32'], [1]);
      dispatch({ kernel: sinkGradient, reads: { y, dy }, writes: { dsink }, integers: { rows, columns }, groups: [1, 1, 1] });
    }
    dispatch({ kernel: softmaxBackward, reads: { y, dy }, writes: { dx }, integers: { rows, columns }, groups: grid(rows, 1) });
  },
};
