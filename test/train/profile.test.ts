import { expect, test } from 'vitest';
import type { Span } from '../../src/core/backend.js';
import { chromeTrace, opTimes } from '../../src/train/profile.js';

const span = (op: Span['op'], phase: string, start: number, end: number, operands: Span['operands'], work: Span['work']): Span => ({
  op,
  phase,
  start,
  end,
  operands,
  work,
});
const product = (flops: number) => ({ flops, bytes: 1e6 });
const [x, weight, A, B] = [
  [10, 6],
  [4, 6],
  [2, 6],
  [4, 2],
];
const [y, h] = [
  [10, 4],
  [10, 2],
];
const spans = [
  span('gatherRows', 'forward', 0, 1, { x: [9, 6], rows: [10], out: x }, { flops: 0, bytes: 5e6 }),
  span('loraLinear', 'forward', 1, 3, { x, weight, A, B, y, h }, product(8e6)),
  span('loraLinearBackward', 'backward', 3, 4, { dy: y, weight, A, B, dx: x, dh: h }, product(2e6)),
  span('loraGradients', 'backward', 4, 4.5, { x, h, dy: y, dh: h, dA: A, dB: B }, product(1e6)),
  span('matmul', 'update', 4.5, 5, { a: [6, 10], b: [6, 7], out: [10, 7] }, product(3e6)),
];

test('a Chrome trace has the phases in one row and the ops in another', () => {
  const { traceEvents } = chromeTrace(spans) as { traceEvents: Record<string, unknown>[] };
  const row = (tid: number) => traceEvents.filter((event) => event.ph === 'X' && event.tid === tid);
  expect(row(0).map(({ name, ts, dur }) => [name, ts, dur])).toEqual([
    ['forward', 0, 3000],
    ['backward', 3000, 1500],
    ['update', 4500, 500],
  ]);
  expect(row(1).map(({ name }) => name)).toEqual(spans.map(({ op }) => op));
  expect(row(1)[1]).toMatchObject({ ts: 1000, dur: 2000, args: { x: '10×6', weight: '4×6', 'GFLOP/s': 4 } });
  expect(row(1)[0]).toMatchObject({ args: { rows: '10', 'GB/s': 5 } });
});

test('times per op, the dearest first', () => {
  const [head, ...lines] = opTimes(spans).split('\n');
  expect(head).toBe('5 ms in ops');
  expect(lines.map((line) => line.trim().split(' ')[0])).toEqual([
    'loraLinear',
    'gatherRows',
    'loraLinearBackward',
    'loraGradients',
    'matmul',
  ]);
  expect(lines[0]).toContain('2.0 ms');
  expect(lines[0]).toContain('40.0 %');
  expect(lines[0]).toContain('4 GFLOP/s');
  expect(lines[1]).toContain('5 GB/s');
});
