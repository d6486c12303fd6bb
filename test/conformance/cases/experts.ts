import { type Case, call, type Float, given, mixes, result, ulp, uniform, whole } from '../case.js';

/** Tokens, experts, and how many of them a token has. */
const sizes: readonly [T: number, E: number, k: number][] = [
  [1, 1, 1],
  [0, 4, 2],
  [5, 3, 3],
  [7, 8, 2],
  [33, 61, 8],
  [300, 128, 8],
];

/** Of each token k experts, all different. */
function choices(T: number, E: number, k: number) {
  const starts = whole([T], 0, E).values as Int32Array;
  const step = [7, 5, 3, 1].find((n) => E % n !== 0) ?? 1;
  return given(
    'i32',
    [T, k],
    Array.from({ length: T * k }, (_, i) => (starts[Math.floor(i / k)] + (i % k) * step) % E),
  );
}

function* routes(): Generator<Case> {
  // Exponents of up to 16, rounded at 2⁻²⁴ of themselves, and a sum of E of them.
  const near = (E: number) => ({ relative: (40 + E) * ulp, absolute: 2 ** -126 });
  for (const normalize of [false, true]) {
    for (const [T, E, k] of sizes) {
      const outputs = () => ({ probabilities: result('f32', [T, E]), experts: result('i32', [T, k]), weights: result('f32', [T, k]) });
      const tolerances = { probabilities: near(E), weights: near(E) };
      yield call('route', { logits: uniform('f32', [T, E], 8) }, outputs(), { normalize }, tolerances);
      // Many are equal.
      yield call('route', { logits: roughly(T, E) }, outputs(), { normalize }, tolerances);
      const counts = T % 2 ? uniform('f32', [E]) : undefined;
      const operands = { probabilities: positive(T, E), experts: choices(T, E, k), dweights: uniform('f32', [T, k]), counts };
      const sums = { dlogits: { relative: 16 * ulp, absolute: 64 * (E + k) * ulp } };
      yield call('routeBackward', operands, { dlogits: result('f32', [T, E]) }, { normalize, balance: 0.5 }, sums);
    }
  }
}

const roughly = (T: number, E: number) => ({
  ...whole([T, E], -2, 3),
  dtype: 'f32' as const,
  values: Float32Array.from(whole([T, E], -2, 3).values!),
});
const positive = (T: number, E: number) => ({
  dtype: 'f32' as const,
  shape: [T, E],
  values: Float32Array.from(whole([T, E], 1, 100).values!, (n) => n / (50 * E)),
});

function* orders(): Generator<Case> {
  for (const [T, E, k] of sizes) {
    const places = { tokens: result('i32', [T * k]), places: result('i32', [T, k]), groups: result('i32', [E + 1]) };
    yield call('groupRows', { experts: choices(T, E, k) }, places, {});
    const counts = given(
      'f32',
      [E],
      Array.from({ length: E }, (_, e) => e),
    );
    yield call('groupRows', { experts: choices(T, E, k) }, { ...places, counts }, {});
  }
}

/** Rows, where groups begin and end, and which of them it is: none, few, all. */
const groupings: readonly [rows: number, groups: readonly number[], group: number][] = [
  [1, [0, 1], 0],
  [9, [0, 4, 4, 9], 1],
  [13, [0, 5, 11, 13], 1],
  [40, [0, 3, 40], 1],
  [130, [0, 100, 130], 0],
];

function* products(): Generator<Case> {
  const forms = [
    { transposeA: false, transposeB: true },
    { transposeA: false, transposeB: false },
    { transposeA: true, transposeB: false },
  ];
  const types: Float[][] = [
    ['f32', 'f32', 'f32'],
    ['bf16', 'bf16', 'bf16'],
    ['bf16', 'f32', 'f32'],
    ['f32', 'bf16', 'bf16'],
  ];
  for (const form of forms) {
    for (const [a, b, out] of types) {
      for (const [i, [R, bounds, group]] of groupings.entries()) {
        const [K, N] = [17 + 16 * i, 5 + 14 * i];
        const [M, rows] = [form.transposeA ? K : R, bounds[group + 1] - bounds[group]];
        const operands = {
          a: uniform(a, [R, K]),
          b: uniform(b, form.transposeA ? [R, N] : form.transposeB ? [N, K] : [K, N]),
          groups: given('i32', [bounds.length], bounds),
        };
        const depth = Math.max(1, form.transposeA ? rows : K);
        for (const accumulate of [false, true]) {
          const attributes = { group, ...form, alpha: i % 2 ? 1 : -0.75, accumulate };
          yield call('groupMatmul', operands, { out: uniform(out, [M, N]) }, attributes, {
            out: { relative: ulp, absolute: 4 * depth * ulp },
          });
        }
      }
    }
  }
}

function* combinations(): Generator<Case> {
  for (const [x, out] of mixes(2)) {
    for (const [T, C, k] of [
      [1, 1, 1],
      [0, 7, 2],
      [5, 1031, 2],
      [70, 130, 8],
    ]) {
      const order = given(
        'i32',
        [T, k],
        Array.from({ length: T * k }, (_, i) => (i * (T % 3 === 1 ? 3 : 7)) % Math.max(1, T * k)),
      );
      const weights = uniform('f32', [T, k]);
      const sums = { out: { relative: ulp, absolute: 2 * (k + 1) * (k + 1) * ulp } };
      const rest = () => ({ residual: uniform(out, [T, C]) });
      const [input, to] = [uniform(x, [T * k, C]), { out: result(out, [T, C]) }];
      yield call('combineRows', { x: input, places: order }, to, {}, sums);
      yield call('combineRows', { x: input, places: order, weights, ...rest() }, to, {}, sums);
      const operands = { x: input, places: order, weights, dout: uniform(out, [T, C]) };
      const backward = { dx: result(x, [T * k, C]), dweights: result('f32', [T, k]) };
      yield call('combineRowsBackward', operands, backward, {}, { dweights: { relative: ulp, absolute: 4 * C * ulp } });
    }
  }
}

export const expertCases: readonly Case[] = [...routes(), ...orders(), ...products(), ...combinations()];
