import { expect, test } from 'vitest';
import { call, given, result } from './case.js';
import { type Device, devices } from './devices.js';
import { mismatch, type Results } from './run.js';

const numbers = (...values: number[]): Results => new Map([['out', new Uint8Array(Float32Array.from(values).buffer)]]);
const operands = { a: given('f32', [2], [1, 2]), b: given('f32', [2], [0, 0]) };
const within = (relative: number) => call('add', operands, { out: result('f32', [2]) }, {}, { out: { relative } });
const slack = (times: number, absolute: number): Device['tolerance'] => {
  const each = { times, absolute };
  return { f32: each, bf16: each, f16: each, reason: 'for the test' };
};

test('a device may be off by so many times what a case allows, and by so much more', () => {
  const off = numbers(1.003, 2);
  expect(mismatch(within(1e-3), off, numbers(1, 2), slack(1, 0))).toMatch(/1 of 2 wrong; out\[0\]/);
  expect(mismatch(within(1e-3), off, numbers(1, 2), slack(4, 0))).toBeUndefined();
  expect(mismatch(within(1e-3), off, numbers(1, 2), slack(1, 0.01))).toBeUndefined();
  // What is equal on every device stays so, but for what a device adds itself.
  expect(mismatch(within(0), off, numbers(1, 2), slack(4, 0))).toMatch(/1 of 2 wrong/);
});

test('whole numbers are equal on every device', () => {
  const index = (value: number): Results => new Map([['index', new Uint8Array(Int32Array.of(value).buffer)]]);
  const argmax = call('argmax', { x: given('f32', [1, 2], [0, 1]) }, { index: result('i32', [1]) }, {});
  expect(mismatch(argmax, index(0), index(1), slack(100, 100))).toMatch(/index\[0\] is 0/);
});

test('every device says why it has its tolerance', () => {
  for (const { name, tolerance } of devices) expect(tolerance.reason, name).toMatch(/\w+ \w+/);
});
