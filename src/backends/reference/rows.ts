import { floats, type Kernels, type Operand } from './operand.js';

/** The element of `whole` where the part at (row, column) begins; throws where the part is not inside. */
function corner(part: Operand, whole: Operand, row: number, column: number): number {
  const [m, n] = part.check(floats, [-1, -1]).shape;
  const [R, C] = whole.check(floats, [-1, -1]).shape;
  const inside = Number.isInteger(row) && Number.isInteger(column) && row >= 0 && column >= 0 && row + m <= R && column + n <= C;
  if (!inside) part.refuse(`[${part.shape}] at row ${row}, column ${column} is not inside [${whole.shape}]`);
  return row * C + column;
}

export const rowOps: Kernels<'gatherRows' | 'writeRows' | 'addRows' | 'slice' | 'place' | 'rope'> = {
  gatherRows: ({ x, rows }, { out }) => {
    const [R, C] = x.check(floats, [-1, -1]).shape;
    const places = rows.check(['i32'], [-1]).places(R);
    out.check(floats, [places.length, C]);
    const values = x.values();
    out.store(new Float32Array(out.size).map((_, i) => values[places[Math.floor(i / C)] * C + (i % C)]));
  },
  writeRows: ({ x, rows }, { out }) => {
    const [R, C] = out.check(floats, [-1, -1]).shape;
    const places = rows.check(['i32'], [-1]).places(R);
    const values = x.check(floats, [places.length, C]).values();
    const result = out.values();
    for (const [i, row] of places.entries()) result.set(values.subarray(i * C, (i + 1) * C), row * C);
    out.store(result);
  },
  addRows: ({ x, rows }, { out }) => {
    const [R, C] = out.check(['f32'], [-1, -1]).shape;
    const places = rows.check(['i32'], [-1]).places(R);
    const values = x.check(floats, [places.length, C]).values();
    const result = out.values();
    // Each addition is rounded: the order of i is part of the op.
    values.forEach((value, i) => {
      result[places[Math.floor(i / C)] * C + (i % C)] += value;
    });
  },
  slice: ({ x }, { out }, { row, column }) => {
    const begin = corner(out, x, row, column);
    const [n, C] = [out.shape[1], x.shape[1]];
    const values = x.values();
    out.store(new Float32Array(out.size).map((_, i) => values[begin + Math.floor(i / n) * C + (i % n)]));
  },
  place: ({ x }, { out }, { row, column, accumulate }) => {
    const begin = corner(x, out, row, column);
    const [n, C] = [x.shape[1], out.shape[1]];
    const result = out.values();
    x.values().forEach((value, i) => {
      const at = begin + Math.floor(i / n) * C + (i % n);
      result[at] = accumulate ? result[at] + value : value;
    });
    out.store(result);
  },
  rope: ({ x, cos, sin, positions }, { out }, { headDim, interleaved, back }) => {
    const [T, columns] = x.check(floats, [-1, -1]).shape;
    const [P, half] = cos.check(['f32'], [-1, -1]).shape;
    sin.check(['f32'], cos.shape);
    out.check(floats, x.shape);
    const places = positions.check(['i32'], [T]).places(P);
    if (columns % headDim !== 0 || 2 * half > headDim)
      x.refuse(`${columns} columns do not fit heads of ${headDim} that rotate ${2 * half}`);
    const [values, c, s] = [x, cos, sin].map((operand) => operand.values());
    const result = values.slice();
    for (let t = 0; t < T; t++) {
      for (let head = t * columns; head < (t + 1) * columns; head += headDim) {
        for (let d = 0; d < half; d++) {
          const angle = places[t] * half + d;
          const sine = back ? -s[angle] : s[angle];
          const [a, b] = interleaved ? [head + 2 * d, head + 2 * d + 1] : [head + d, head + d + half];
          result[a] = values[a] * c[angle] - sine * values[b];
          result[b] = values[b] * c[angle] + sine * values[a];
        }
      }
    }
    out.store(result);
  },
};
