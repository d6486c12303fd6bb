import { bits, type Case, call, type Float, mixes, result, ulp, uniform } from '../case.js';

/** Values in [−1, 1): the partial sums grow like √k/3, so k roundings of them add up to about k·ulp/4; sixteen times that is certain. */
const sumOf = (k: number, factor = 1) => ({ relative: ulp, absolute: 4 * Math.max(1, k) * ulp * Math.max(1, Math.abs(factor)) });

/** The three forms of a product [M,K] · [K,N]. */
const forms = [
  { transposeA: false, transposeB: true },
  { transposeA: false, transposeB: false },
  { transposeA: true, transposeB: false },
] as const;

function matmul(form: (typeof forms)[number], M: number, N: number, K: number, [a, b, out]: Float[], alpha: number, accumulate: boolean) {
  const operands = {
    a: uniform(a, form.transposeA ? [K, M] : [M, K]),
    b: uniform(b, form.transposeB ? [N, K] : [K, N]),
  };
  const output = accumulate ? uniform(out, [M, N]) : result(out, [M, N]);
  return call('matmul', operands, { out: output }, { ...form, alpha, accumulate }, { out: sumOf(K, alpha) });
}

/** Tiles are 4 × 8, 6 × 16, 12 × 8, 12 × 32 or 32 × 32 of rows and columns, and bf16 goes in pairs of K, on Arm in fours. */
const shapes: readonly [M: number, N: number, K: number][] = [
  [1, 1, 1],
  [1, 33, 7],
  [1, 100, 97],
  [2, 17, 64],
  [3, 5, 2],
  [4, 8, 4],
  [5, 47, 31],
  [7, 16, 33],
  [8, 31, 130],
  [9, 32, 15],
  [11, 13, 17],
  [12, 32, 16],
  [13, 33, 63],
  [24, 96, 32],
  [37, 65, 96],
  [97, 101, 103],
];

export function* matmuls(): Generator<Case> {
  for (const form of forms) {
    for (const mix of mixes(3)) {
      for (const [i, [M, N, K]] of shapes.entries()) yield matmul(form, M, N, K, mix, i % 2 ? 1 : -0.75, i % 3 === 0);
    }
    for (const mix of [['f32', 'f32', 'f32'] as Float[], ['bf16', 'bf16', 'bf16'] as Float[]]) {
      yield* [false, true].map((accumulate) => matmul(form, 6, 10, 0, mix, 1, accumulate));
      yield* [matmul(form, 0, 10, 5, mix, 1, false), matmul(form, 6, 0, 5, mix, 1, false)];
      // Long sums; more rows than are packed at a time.
      yield* [
        matmul(form, 14, 35, 2049, mix, 1, false),
        matmul(form, 13, 5, 8197, mix, -2, true),
        matmul(form, 2053, 3, 5, mix, 0.5, true),
        matmul(form, 3, 1501, 66, mix, 1, false),
      ];
    }
  }
}

/**
 * More rows than a block of 2048 or than a chunk of 512, rows enough for each of two threads, tiles of every height, ranks of one vector,
 * two and more; inputs and outputs in and past whole words and tiles; a mask over a sum in blocks; at the end, rows that stay while columns
 * pass by, in blocks of K, and rows 2 KiB apart.
 */
const lowRanks: readonly [T: number, inputs: number, outputs: number, rank: number][] = [
  [1, 5, 3, 1],
  [3, 64, 33, 16],
  [8, 33, 31, 2],
  [13, 96, 70, 16],
  [29, 47, 32, 17],
  [37, 130, 65, 33],
  [6, 12, 7, 0],
  [0, 12, 7, 4],
  [2053, 3, 5, 2],
  [14, 35, 9, 80],
  [5, 4101, 7, 3],
  [300, 40, 70, 12],
  [1030, 70, 100, 4],
  [40, 70, 4160, 3],
  [97, 40, 1601, 20],
  [97, 1601, 40, 20],
  [97, 1601, 40, 33],
  [33, 1024, 1025, 3],
];
/** Rows packed a span of K at a time. */
const spans = [33, 87500, 17, 3] as const;

function* lowRankProducts(): Generator<Case> {
  const mixtures: Float[][] = [
    ['f32', 'f32', 'f32'],
    ['bf16', 'bf16', 'f32'],
    ['bf16', 'f32', 'bf16'],
    ['f32', 'bf16', 'f32'],
  ];
  for (const [x, weight, adapter] of mixtures) {
    for (const [i, [T, inputs, outputs, rank]] of [...lowRanks, ...(weight === 'f32' && x === 'f32' ? [spans] : [])].entries()) {
      const mask = i % 3 === 1 || T > 100 || inputs > 10000 ? bits(T, inputs) : undefined;
      const attributes = { scale: i % 2 ? 2 : 0.75, maskScale: 1.25 };
      const rest = (width: number) => (i % 4 > 1 ? uniform(i % 2 ? 'f32' : x, [T, width]) : undefined);
      const parameters = {
        weight: uniform(weight, [outputs, inputs]),
        A: uniform(adapter, [rank, inputs]),
        B: uniform(adapter, [outputs, rank]),
        mask,
      };
      // Where h is rounded to bf16 one or two of a row may fall on the other side, by 2⁻⁸ of themselves; |h| is below about √K·scale.
      const side = (k: number) => (x === 'bf16' || weight === 'bf16' ? 2 ** -7 * Math.sqrt(k) * 2.5 : 0);
      const sums = (k: number) => {
        const h = sumOf(k, 2.5);
        return { h, out: { relative: ulp, absolute: sumOf(k).absolute + 4 * (rank + 1) * Math.sqrt(rank) * h.absolute + side(k) } };
      };
      const forward = sums(inputs);
      yield call(
        'loraLinear',
        { x: uniform(x, [T, inputs]), ...parameters, residual: rest(outputs) },
        { y: result(x, [T, outputs]), h: result(x, [T, rank]) },
        attributes,
        { y: forward.out, h: forward.h },
      );
      const backward = sums(outputs);
      yield call(
        'loraLinearBackward',
        { dy: uniform(x, [T, outputs]), ...parameters, residual: rest(inputs) },
        { dx: result(x, [T, inputs]), dh: result(x, [T, rank]) },
        attributes,
        { dx: backward.out, dh: backward.h },
      );
      if (i % 4 === 2) {
        const operands = { x: uniform(x, [T, inputs]), ...parameters, residual: uniform(x, [T, outputs]) };
        yield call('loraLinear', operands, { h: result(x, [T, rank]) }, attributes, { h: forward.h });
      }
      yield call(
        'loraGradients',
        { x: uniform(x, [T, inputs]), h: uniform(x, [T, rank]), dy: uniform(x, [T, outputs]), dh: uniform(x, [T, rank]), mask },
        { dA: result('f32', [rank, inputs]), dB: result('f32', [outputs, rank]) },
        { maskScale: attributes.maskScale },
        { dA: sumOf(T, 1.25), dB: sumOf(T) },
      );
    }
  }
}

function* biases(): Generator<Case> {
  for (const [x, bias, out] of mixes(3)) {
    for (const shape of [
      [1, 1],
      [0, 5],
      [7, 33],
      [3, 1031],
    ]) {
      const operands = { x: uniform(x, shape), bias: uniform(bias, [shape[1]]) };
      yield call('addBias', operands, { out: result(out, shape) }, {});
    }
  }
}

function* columnSums(): Generator<Case> {
  for (const x of ['f32', 'bf16'] as const) {
    for (const [T, N] of [
      [1, 1],
      [0, 5],
      [7, 33],
      [3, 1031],
      [701, 97],
    ]) {
      yield call('columnSum', { x: uniform(x, [T, N]) }, { out: uniform('f32', [N]) }, {}, { out: sumOf(T) });
    }
  }
}

export const productCases: readonly Case[] = [...matmuls(), ...lowRankProducts(), ...biases(), ...columnSums()];
