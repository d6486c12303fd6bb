import { type Case, call, type Given, given, mixes, result, ulp, uniform } from '../case.js';

const shapes: readonly [T: number, C: number][] = [
  [1, 1],
  [0, 5],
  [3, 7],
  [5, 33],
  [2, 1031],
  [701, 97],
];

/** 1/√(mean of squares), what the forward pass would have given. */
function positive(shape: readonly number[]): Given {
  const { values } = uniform('f32', shape);
  return { dtype: 'f32', shape, values: values?.map((value) => 1.7 + value / 2) };
}

/** A sum of squares has no cancellation; rstd takes half of its relative error. */
const normed = { relative: 32 * ulp };

function* rms(): Generator<Case> {
  for (const [x, weight, y] of mixes(3)) {
    for (const shape of shapes) {
      const [T, C] = shape;
      const eps = T === 3 ? 1e-2 : 1e-6;
      const operands = { x: uniform(x, shape), weight: uniform(weight, [C]) };
      const outputs = { y: result(y, shape), rstd: result('f32', [T]) };
      yield call('rmsNorm', operands, outputs, { eps, offset: T === 5 ? 1 : 0 }, { y: normed, rstd: normed });
    }
  }
}

function* rmsBackward(): Generator<Case> {
  for (const [x, weight, dy] of mixes(3)) {
    for (const shape of shapes) {
      const [T, C] = shape;
      for (const full of [true, false]) {
        const operands = {
          x: uniform(x, shape),
          weight: uniform(weight, [C]),
          rstd: positive([T]),
          dy: uniform(dy, shape),
          residual: full ? uniform(dy, shape) : undefined,
        };
        const outputs = { dx: result(x, shape), dweight: full ? uniform('f32', [C]) : undefined };
        // Terms of at most rstd² · 2 · 2; the mean's and the columns' sums of C and T of them.
        const tolerances = { dx: { absolute: 64 * ulp }, dweight: { absolute: (16 + 8 * T) * ulp } };
        yield call('rmsNormBackward', operands, outputs, { offset: T === 5 ? 1 : 0 }, tolerances);
      }
    }
  }
  const zero = given('f32', [2, 4], Array(8).fill(0));
  const outputs = { y: result('f32', [2, 4]), rstd: result('f32', [2]) };
  yield call('rmsNorm', { x: zero, weight: uniform('f32', [4]) }, outputs, { eps: 1e-5, offset: 0 }, { rstd: normed });
}

/** The same numbers moved away from 0, whose variance is a difference that a sum of squares would lose. */
function moved(operand: Given, by: number): Given {
  return { ...operand, values: operand.values?.map((value) => value + by) };
}

function* layers(): Generator<Case> {
  for (const [x, weight, y] of mixes(3)) {
    for (const shape of shapes) {
      const [T, C] = shape;
      const eps = T === 3 ? 1e-2 : 1e-5;
      const given = moved(uniform(x, shape), T === 5 ? 30 : 0);
      const operands = { x: given, weight: uniform(weight, [C]), bias: T === 2 ? undefined : uniform(weight, [C]) };
      const outputs = { y: result(y, shape), mean: result('f32', [T]), rstd: result('f32', [T]) };
      // Terms of size 1 or 30, and rstd of about 2 for rows of several.
      const size = T === 5 ? 30 : 1;
      const tolerances = { y: { absolute: 512 * size * ulp }, mean: { absolute: 16 * size * ulp }, rstd: { relative: 256 * size * ulp } };
      yield call('layerNorm', operands, outputs, { eps }, tolerances);
    }
  }
}

function* layersBackward(): Generator<Case> {
  for (const [x, weight, dy] of mixes(3)) {
    for (const shape of shapes) {
      const [T, C] = shape;
      for (const full of [true, false]) {
        const operands = {
          x: uniform(x, shape),
          weight: uniform(weight, [C]),
          mean: uniform('f32', [T]),
          rstd: positive([T]),
          dy: uniform(dy, shape),
          residual: full ? uniform(dy, shape) : undefined,
        };
        const outputs = { dx: result(x, shape), dweight: full ? uniform('f32', [C]) : undefined };
        // As of rmsNorm, with x − mean of up to 2.
        const tolerances = { dx: { absolute: 192 * ulp }, dweight: { absolute: (16 + 16 * T) * ulp } };
        yield call('layerNormBackward', operands, outputs, {}, tolerances);
      }
    }
  }
}

function* softmaxes(): Generator<Case> {
  for (const [m, n, offset, window] of [
    [1, 1, 0, 0],
    [0, 5, 0, 0],
    [7, 7, 0, 0],
    [5, 33, 28, 0],
    [5, 33, 28, 4],
    [33, 5, 0, 0],
    [4, 9, -2, 0],
    [3, 1031, 1031, 0],
    [301, 301, 0, 17],
  ]) {
    const shape = [m, n];
    // Small probabilities have the rounding of their exponent, up to 160, too.
    const tolerances = { y: { relative: 32 * ulp, absolute: 2 ** -40 } };
    yield call('softmax', { x: uniform('f32', shape, 8) }, { y: result('f32', shape) }, { offset, window }, tolerances);
    yield call('softmax', { x: uniform('f32', shape, 80) }, { y: result('f32', shape) }, { offset, window }, tolerances);
    const sink = uniform('f32', [1], 80);
    yield call('softmax', { x: uniform('f32', shape, 80), sink }, { y: result('f32', shape) }, { offset, window }, tolerances);
    const backward = { y: positive(shape), dy: uniform('f32', shape) };
    // The sum of y · dy: n terms of at most 2.2.
    const sums = { dx: { absolute: (16 + 10 * n) * ulp } };
    yield call('softmaxBackward', backward, { dx: result('f32', shape) }, {}, sums);
    // What is left of each row's weight and the sum of y · dy, both of n terms, over all rows.
    const sinkSums = { ...sums, dsink: { absolute: 64 * m * n * n * ulp } };
    yield call('softmaxBackward', backward, { dx: result('f32', shape), dsink: uniform('f32', [1]) }, {}, sinkSums);
  }
}

export const normCases: readonly Case[] = [...rms(), ...rmsBackward(), ...layers(), ...layersBackward(), ...softmaxes()];
