import { type Case, call, type Given, given, result, ulp, uniform, whole } from '../case.js';

const shapes: readonly [n: number, V: number][] = [
  [1, 1],
  [0, 5],
  [3, 7],
  [5, 1031],
  [2, 40_009],
  [401, 97],
];

function* crossEntropies(): Generator<Case> {
  for (const [n, V] of shapes) {
    for (const [size, softcap] of [
      [1, 0],
      [40, 0],
      [40, 30],
    ]) {
      const operands = { logits: uniform('f32', [n, V], size), labels: whole([n], n > 4 ? -2 : 0, V) };
      const attributes = { scale: 1 / 3, softcap };
      // The logits' own size bounds the loss's rounding; the probabilities are good to 32 ulp, of at most `scale`.
      const tolerances = { losses: { relative: 8 * ulp, absolute: 4 * size * ulp }, gradient: { relative: 32 * ulp, absolute: ulp } };
      const losses = result('f32', [n]);
      yield call('crossEntropy', operands, { losses }, attributes, tolerances);
      for (const dtype of ['f32', 'bf16'] as const) {
        yield call('crossEntropy', operands, { losses, gradient: result(dtype, [n, V]) }, attributes, tolerances);
      }
      const weighted = { ...operands, weights: rowWeights(n) };
      yield call('crossEntropy', weighted, { losses }, attributes, tolerances);
      for (const dtype of ['f32', 'bf16'] as const) {
        yield call('crossEntropy', weighted, { losses, gradient: result(dtype, [n, V]) }, attributes, tolerances);
      }
    }
  }
}

/** A weight below 0 first, then 0, then any in [−1, 1): the bound of a gradient stays what it is without them. */
function rowWeights(n: number): Given {
  const weights = uniform('f32', [n]);
  weights.values!.set([-0.75, 0].slice(0, n));
  return weights;
}

function* sums(): Generator<Case> {
  for (const x of ['f32', 'bf16'] as const) {
    for (const n of [0, 1, 7, 1025, 70_001]) {
      // Blocks of 1024 are summed in f32, the rest in f64.
      const absolute = 4 * ulp * Math.max(1, Math.min(n, 1024) * Math.sqrt(n / 1024 + 1));
      yield call('sum', { x: uniform(x, [n]) }, { out: uniform('f32', [1]) }, { factor: -0.5 }, { out: { relative: ulp, absolute } });
      yield call(
        'sumSquares',
        { x: uniform(x, [n]) },
        { out: uniform('f32', [1]) },
        {},
        { out: { relative: 32 * ulp, absolute: 2 * ulp } },
      );
    }
  }
}

/** Rows with the maximum at `places`; where there are several, the first counts. */
function peaks(dtype: 'f32' | 'bf16', V: number, places: readonly number[][]): Given {
  const { values } = uniform(dtype, [places.length, V]);
  places.forEach((row, i) => {
    for (const j of row) values![i * V + j] = 5;
  });
  return { dtype, shape: [places.length, V], values };
}

function* argmaxes(): Generator<Case> {
  for (const x of ['f32', 'bf16'] as const) {
    for (const [n, V] of shapes) yield call('argmax', { x: uniform(x, [n, V]) }, { index: result('i32', [n]) }, {});
    const rows = [[0], [2999], [7, 8], [1023, 1024], [1024, 2047, 2048], []];
    yield call('argmax', { x: peaks(x, 3000, rows) }, { index: result('i32', [6]) }, {});
    const flat = given(x, [3, 5], [...Array(5).fill(-3), ...Array(5).fill(Number.NEGATIVE_INFINITY), -2, -1, -1, -3, -1]);
    yield call('argmax', { x: flat }, { index: result('i32', [3]) }, {});
    // A row in which nothing can be chosen, as NaN in a weight makes it, says so.
    const broken = given(x, [2, 3], [Number.NaN, Number.NaN, Number.NaN, Number.NaN, -2, -1]);
    yield call('argmax', { x: broken }, { index: result('i32', [2]) }, {});
  }
}

export const lossCases: readonly Case[] = [...crossEntropies(), ...sums(), ...argmaxes()];
