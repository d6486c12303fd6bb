import { type Case, call, given, mixes, result, ulp, uniform, whole } from '../case.js';

/** Distinct rows of R in a mixed order. */
function distinct(n: number, R: number) {
  const step = [7, 5, 3, 1].find((candidate) => R % candidate !== 0 || candidate === 1)!;
  return given(
    'i32',
    [n],
    Array.from({ length: n }, (_, i) => (i * step + 1) % R),
  );
}

const shapes: readonly [R: number, C: number, n: number][] = [
  [1, 1, 1],
  [5, 3, 0],
  [11, 17, 7],
  [6, 1031, 6],
  [203, 193, 201],
];

function* moves(): Generator<Case> {
  for (const [x, out] of mixes(2)) {
    for (const [R, C, n] of shapes) {
      yield call('gatherRows', { x: uniform(x, [R, C]), rows: whole([n], 0, R) }, { out: result(out, [n, C]) }, {});
      yield call('writeRows', { x: uniform(x, [n, C]), rows: distinct(n, R) }, { out: uniform(out, [R, C]) }, {});
      // Rounded after each addition, in the order of the rows: exact.
      if (out === 'f32')
        yield call('addRows', { x: uniform(x, [n, C]), rows: whole([n], 0, Math.min(R, 4)) }, { out: uniform(out, [R, C]) }, {});
    }
  }
}

function* parts(): Generator<Case> {
  for (const [x, out] of mixes(2)) {
    for (const [R, C, m, n, row, column] of [
      [1, 1, 1, 1, 0, 0],
      [5, 7, 0, 3, 5, 2],
      [5, 7, 3, 0, 1, 7],
      [13, 37, 5, 11, 3, 26],
      [40, 1100, 37, 1051, 3, 49],
      [300, 130, 300, 127, 0, 3],
    ]) {
      yield call('slice', { x: uniform(x, [R, C]) }, { out: result(out, [m, n]) }, { row, column });
      for (const accumulate of [false, true]) {
        yield call('place', { x: uniform(x, [m, n]) }, { out: uniform(out, [R, C]) }, { row, column, accumulate });
      }
    }
  }
}

function* rotations(): Generator<Case> {
  // Two products of at most 1, one rounded, and their sum.
  const tolerances = { out: { absolute: 3 * ulp } };
  for (const [x, out] of mixes(2)) {
    for (const [T, heads, headDim, half] of [
      [1, 1, 2, 1],
      [0, 2, 4, 2],
      [7, 3, 8, 4],
      [5, 2, 24, 8],
      [13, 3, 64, 32],
      [3, 17, 80, 33],
      [300, 2, 128, 64],
    ]) {
      for (const [interleaved, back] of [
        [false, false],
        [false, true],
        [true, false],
        [true, true],
      ]) {
        const shape = [T, heads * headDim];
        const operands = () => ({
          x: uniform(x, shape),
          cos: uniform('f32', [11, half]),
          sin: uniform('f32', [11, half]),
          positions: whole([T], 0, 11),
        });
        yield call('rope', operands(), { out: result(out, shape) }, { headDim, interleaved, back }, tolerances);
      }
    }
  }
}

export const rowCases: readonly Case[] = [...moves(), ...parts(), ...rotations()];
