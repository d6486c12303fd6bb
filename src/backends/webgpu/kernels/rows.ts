import { floats } from '../../../core/operand.js';
import type { GpuOps } from '../context.js';
import { type GpuOperand, grid, type Kernel } from '../kernel.js';
import { inWholeWords, runMap } from './elementwise.js';

const size = 64;

/** Each thread writes two neighbours of a row of x into the row of out that `rows` says. */
const writeRows: Kernel = {
  name: 'writeRows',
  size,
  main: () => `  let pairs = (p.columns + 1u) / 2u;
  let row = thread / pairs;
  if (row >= p.n) { return; }
  let c = 2u * (thread % pairs);
  let both = c + 1u < p.columns;
  let place = row * p.columns + c;
  let v = vec2f(x_at(place), x_at(select(place, place + 1u, both)));
  out_put(u32(rows_at(row)) * p.columns + c, v, both);`,
};

/** Each thread adds up a column, row by row: rows may repeat, and their order is a part of the op. */
const addRows: Kernel = {
  name: 'addRows',
  size,
  main: () => `  if (thread >= p.columns) { return; }
  for (var i = 0u; i < p.n; i++) {
    let to = u32(rows_at(i)) * p.columns + thread;
    out_set(to, out_at(to) + x_at(i * p.columns + thread));
  }`,
};

/** The element of `whole` where the part at (row, column) begins; throws where the part is not inside. */
function corner(part: GpuOperand, whole: GpuOperand, row: number, column: number): number {
  const [m, n] = part.check(floats, [-1, -1]).shape;
  const [R, C] = whole.check(floats, [-1, -1]).shape;
  const inside = row >= 0 && column >= 0 && row + m <= R && column + n <= C;
  if (!inside) part.refuse(`[${part.shape}] at row ${row}, column ${column} is not inside [${whole.shape}]`);
  return row * C + column;
}

/** Element i of x [·, columns] rotated with its partner, half a head away or beside it; the op table has the formula. */
const rotated = (interleaved: boolean) => /* wgsl */ `
fn rotated(i: u32) -> f32 {
  let t = i / p.columns;
  let d = (i % p.columns) % p.headDim;
  let v = x_at(i);
  if (d >= 2u * p.rotates) { return v; }
  let first = ${interleaved ? '(d & 1u) == 0u' : 'd < p.rotates'};
  let pair = ${interleaved ? 'd >> 1u' : 'select(d - p.rotates, d, first)'};
  let step = ${interleaved ? '1u' : 'p.rotates'};
  let angle = u32(positions_at(t)) * p.rotates + pair;
  let partner = x_at(select(i - step, i + step, first));
  let s = p.sign * sin_at(angle);
  return v * cos_at(angle) + select(s, -s, first) * partner;
}
`;

export const rowOps: GpuOps<'gatherRows' | 'writeRows' | 'addRows' | 'slice' | 'place' | 'rope'> = {
  gatherRows: ({ x, rows }, { out }, _, context) => {
    const [R, C] = x.check(floats, [-1, -1]).shape;
    const [n] = rows.check(['i32'], [-1]).shape;
    out.check(floats, [n, C]);
    context.checkIndices(rows, 0, R);
    const formulas = 'out=x_at(u32(rows_at(i / p.columns)) * p.columns + i % p.columns)';
    runMap(context, { reads: { x, rows }, writes: { out }, formulas, integers: { columns: C } });
  },
  writeRows: ({ x, rows }, { out }, _, context) => {
    const [R, columns] = out.check(floats, [-1, -1]).shape;
    const [n] = rows.check(['i32'], [-1]).shape;
    x.check(floats, [n, columns]);
    context.checkIndices(rows, 0, R);
    inWholeWords(context, out, true, (out) => {
      const groups = grid(n * Math.ceil(columns / 2), size);
      context.dispatch({ kernel: writeRows, reads: { x, rows }, writes: { out }, integers: { n, columns }, groups });
    });
  },
  addRows: ({ x, rows }, { out }, _, context) => {
    const [R, columns] = out.check(['f32'], [-1, -1]).shape;
    const [n] = rows.check(['i32'], [-1]).shape;
    x.check(floats, [n, columns]);
    context.checkIndices(rows, 0, R);
    context.dispatch({ kernel: addRows, reads: { x, rows }, writes: { out }, integers: { n, columns }, groups: grid(columns, size) });
  },
  slice: ({ x }, { out }, { row, column }, context) => {
    const begin = corner(out, x, row, column);
    const formulas = 'out=x_at(p.corner + (i / p.width) * p.columns + i % p.width)';
    runMap(context, { reads: { x }, writes: { out }, formulas, integers: { corner: begin, width: out.shape[1], columns: x.shape[1] } });
  },
  place: ({ x }, { out }, { row, column, accumulate }, context) => {
    corner(x, out, row, column);
    const [m, width] = x.shape;
    const columns = out.shape[1];
    const globals = `
fn placed(i: u32) -> f32 {
  let r = i / p.columns - p.row;
  let c = i % p.columns - p.column;
  if (i / p.columns < p.row || r >= p.height || c >= p.width) { return out_at(i); }
  return x_at(r * p.width + c)${accumulate ? ' + out_at(i)' : ''};
}\n`;
    if (x.size === 0) return;
    // The rows that the part lies in, from a whole word on.
    const from = Math.floor((row * columns) / 2) * 2;
    const integers = { columns, row, column, height: m, width };
    runMap(context, { reads: { x }, writes: { out }, formulas: 'out=placed(i)', integers, globals, from, to: (row + m) * columns });
  },
  rope: ({ x, cos, sin, positions }, { out }, { headDim, interleaved, back }, context) => {
    const [T, columns] = x.check(floats, [-1, -1]).shape;
    const [P, rotates] = cos.check(['f32'], [-1, -1]).shape;
    sin.check(['f32'], cos.shape);
    out.check(floats, x.shape);
    positions.check(['i32'], [T]);
    if (columns % headDim !== 0 || 2 * rotates > headDim)
      x.refuse(`${columns} columns do not fit heads of ${headDim} that rotate ${2 * rotates}`);
    context.checkIndices(positions, 0, P);
    let from = x;
    if (x.buffer === out.buffer) {
      from = context.scratch(x.dtype, x.shape);
      runMap(context, { reads: { x }, writes: { y: from }, formulas: 'y=x_at(i)' });
    }
    const reads = { x: from, cos, sin, positions };
    const integers = { columns, headDim, rotates };
    const numbers = { sign: back ? -1 : 1 };
    runMap(context, { reads, writes: { out }, formulas: 'out=rotated(i)', integers, numbers, globals: rotated(interleaved) });
  },
};
