import { type Case, call, given, mixes, result, ulp, uniform } from '../case.js';

interface Form {
  readonly C: number;
  readonly K: number;
  /** Rows of each packed example, and how many inputs came before them. */
  readonly lengths: readonly (readonly [rows: number, past: number])[];
}

const fresh = (...lengths: number[]) => lengths.map((length): [number, number] => [length, 0]);

const forms: readonly Form[] = [
  { C: 1, K: 1, lengths: fresh(1) },
  { C: 5, K: 3, lengths: fresh(1, 0, 2, 7) },
  { C: 1031, K: 4, lengths: fresh(33) },
  { C: 48, K: 3, lengths: fresh(701, 300) },
  { C: 3, K: 3, lengths: [] },
];

/** Examples that go on, with more and with fewer rows than a state has, and one that begins anew in a slot that was used. */
const cached: readonly Form[] = [
  {
    C: 17,
    K: 3,
    lengths: [
      [1, 1],
      [1, 40],
      [5, 2],
      [3, 0],
      [1, 0],
    ],
  },
  {
    C: 1031,
    K: 5,
    lengths: [
      [2, 9],
      [0, 3],
      [7, 1],
    ],
  },
];

/** Each example has a slot of 64 keys. */
function tableOf(lengths: Form['lengths']) {
  let row = 0;
  return given(
    'i32',
    [lengths.length, 4],
    lengths.flatMap(([rows, past], s) => [row, (row += rows), 64 * s, 64 * s + past + rows]),
  );
}

/** K products of numbers below 1. */
const sums = (K: number) => ({ absolute: 2 * K * ulp });

function* convolutions(): Generator<Case> {
  for (const [x, weight, y] of mixes(3)) {
    for (const { C, K, lengths } of [...forms, ...cached]) {
      const T = lengths.reduce((sum, [rows]) => sum + rows, 0);
      const operands = { x: uniform(x, [T, C]), weight: uniform(weight, [C, K]), segments: tableOf(lengths) };
      const outputs = { y: result(y, [T, C]) };
      if (lengths.every(([, past]) => past === 0)) {
        yield call('shortConv', operands, outputs, { capacity: 1 }, { y: sums(K) });
        const backward = { ...operands, dy: uniform(y, [T, C]) };
        const tolerances = { dx: sums(K), dweight: { absolute: 2 * ulp * (T + 1) } };
        yield call('shortConvBackward', backward, { dx: result(x, [T, C]) }, {}, tolerances);
        const dweight = uniform('f32', [C, K]);
        yield call('shortConvBackward', backward, { dx: result(x, [T, C]), dweight }, {}, tolerances);
      }
      // A state of another dtype is rounded to it; those of one are moved.
      const state = uniform(x, [lengths.length * (K - 1), C]);
      if (C < 1000 || y === x) yield call('shortConv', operands, { ...outputs, state }, { capacity: 64 }, { y: sums(K) });
    }
  }
}

export const shortConvCases: readonly Case[] = [...convolutions()];
