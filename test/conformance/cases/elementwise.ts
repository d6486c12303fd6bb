import { activationKinds } from '../../../src/core/ops.table.js';
import { bits, type Case, call, given, mixes, result, ulp, uniform } from '../case.js';

/** Empty, one element, less and more than a cache block of 1024 elements. */
const sizes = [0, 1, 7, 1025];
/** The same and more than a piece of work of 32768, so that threads share it. */
const long = [...sizes, 33_003];
const few = [0, 13, 2050];

const specials = [0, -0, 1, -1, 0.5, 1e-7, 6e-8, 5.96e-8, 2.98e-8, 1e-40, 65504, 65519.9, 65520, 3.3e38, -3.4e38];
/** Neighbours of the numbers half way between two bf16 and between two f16. */
const ties = [1.00390625, 1.01171875, 1.0039063, 1.0039061, 1.00048828125, 1.00146484375, 0.99951171875, 3.0517578125e-5];
const notFinite = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
const awkward = [...specials, ...ties, ...notFinite];

function* copies(): Generator<Case> {
  for (const dtype of ['f32', 'bf16', 'f16', 'i32', 'u8'] as const) {
    for (const n of long) yield call('fill', {}, { out: result(dtype, [n]) }, { value: 7 });
    yield call('fill', {}, { out: result(dtype, [3, 5, 7]) }, { value: dtype === 'u8' ? 200 : dtype === 'i32' ? -100_000 : -0.1 });
  }
  for (const from of ['f32', 'bf16', 'f16'] as const) {
    for (const to of ['f32', 'bf16', 'f16'] as const) {
      for (const n of long) yield call('cast', { x: uniform(from, [n], 3) }, { out: result(to, [n]) }, {});
      yield call('cast', { x: given(from, [awkward.length], awkward) }, { out: result(to, [awkward.length, 1]) }, {});
    }
  }
}

function* sums(): Generator<Case> {
  for (const [a, b, out] of mixes(3)) {
    for (const n of out === a && out === b ? long : few) {
      const operands = () => ({ a: uniform(a, [n]), b: uniform(b, [n]) });
      // One rounding: exact.
      yield call('add', operands(), { out: result(out, [n]) }, {});
      yield call('mul', operands(), { out: result(out, [n]) }, {});
    }
  }
  for (const [x, out] of mixes(2)) {
    for (const n of x === out ? long : few) {
      for (const factor of [1, -0.3]) {
        // A fused multiply-add leaves out the rounding of factor · x.
        const tolerance = { relative: ulp, absolute: Math.abs(factor) * 2 * ulp };
        yield call('accumulate', { x: uniform(x, [n]) }, { out: uniform(out, [n]) }, { factor }, { out: tolerance });
      }
    }
  }
}

/**
 * The exponential is good to 3e-7 (native/kernels/simd.h). Its argument's rounding counts in the tail of gelu_tanh, most where results are
 * below 1e-6; a slope has terms of up to 8 that cancel.
 */
const value = { relative: 32 * ulp, absolute: 2 ** -40 };
const slope = { relative: 32 * ulp, absolute: 64 * ulp };

function* activations(): Generator<Case> {
  for (const kind of activationKinds) {
    for (const [x, y] of mixes(2)) {
      for (const n of x === y && kind === 'silu' ? long : few) {
        yield call('activation', { x: uniform(x, [n], 8) }, { y: result(y, [n]) }, { kind }, { y: value });
        yield call('gated', { gate: uniform(x, [n], 8), up: uniform(y, [n]) }, { out: result(x, [n]) }, { kind }, { out: value });
        const backward = { x: uniform(x, [n], 8), dy: uniform(y, [n]) };
        yield call('activationBackward', backward, { dx: result(y, [n]) }, { kind }, { dx: slope });
        const operands = { gate: uniform(x, [n], 8), up: uniform(y, [n]), dout: uniform(x, [n]) };
        const outputs = { dgate: result(x, [n]), dup: result(y, [n]) };
        yield call('gatedBackward', operands, outputs, { kind }, { dgate: slope, dup: value });
      }
    }
    const extremes = given('f32', [8], [0, -0, 100, -100, 1e4, -1e4, 88, -88]);
    yield call('activation', { x: extremes }, { y: result('f32', [8]) }, { kind }, { y: { ...value, absolute: 2 ** -24 } });
    const ones = given('f32', [8], Array(8).fill(1));
    yield call('activationBackward', { x: extremes, dy: ones }, { dx: result('f32', [8]) }, { kind }, { dx: slope });
  }
}

function* softcaps(): Generator<Case> {
  for (const [x, y] of mixes(2)) {
    for (const n of x === y ? long : few) {
      // tanh is good to some ulp, of numbers around 0 too; 1 − tanh² to some ulp of 1.
      yield call('softcap', { x: uniform(x, [n], 100) }, { y: result(y, [n]) }, { cap: 30 }, { y: { relative: 16 * ulp } });
      const backward = { x: uniform(x, [n], 8), dy: uniform(y, [n]) };
      yield call('softcapBackward', backward, { dx: result(y, [n]) }, { cap: 5 }, { dx: { absolute: 16 * ulp } });
    }
  }
  const extremes = given('f32', [8], [0, 1e-30, -1e-5, 0.6249, 0.6251, 1e4, -3e38, Number.NEGATIVE_INFINITY]);
  yield call('softcap', { x: extremes }, { y: result('f32', [8]) }, { cap: 1 }, { y: { relative: 16 * ulp } });
}

function* dropout(): Generator<Case> {
  // The bits are exact. Some words, more than a block of 64, more than a piece of work.
  for (const shape of [
    [1, 1],
    [0, 3],
    [5, 13],
    [67, 33],
  ]) {
    const attributes = { p: 0.1, seed: 1234, stream: 0x3000_0005, step: 77 };
    yield call('dropoutMask', {}, { mask: result('i32', shape) }, attributes);
  }
  for (const p of [0, 0.5, 0.05, 0.99999]) {
    const attributes = { p, seed: 0xffff_ffff, stream: 0xffff_fffe, step: 0xffff_fffd };
    yield call('dropoutMask', {}, { mask: result('i32', [3, 5]) }, attributes);
  }
  const tolerances = { out: { relative: 2 * ulp } };
  for (const [x, out] of mixes(2)) {
    for (const [T, N] of [
      [1, 1],
      [0, 7],
      [5, 399],
      [7, 2050],
      [1100, 32],
    ]) {
      const operands = { x: uniform(x, [T, N]), mask: bits(T, N) };
      yield call('dropout', operands, { out: result(out, [T, N]) }, { maskScale: 1 / 0.9 }, tolerances);
    }
  }
}

function* adamw(): Generator<Case> {
  const attributes = { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.1, step: 1, gradientScale: 1 };
  const changes = [{}, { step: 1000, gradientScale: 0.37 }, { weightDecay: 0, beta1: 0.8, beta2: 0.95, step: 3, eps: 1e-6 }];
  for (const n of long) {
    for (const change of changes) {
      const v = uniform('f32', [n]);
      const outputs = { parameter: uniform('f32', [n]), m: uniform('f32', [n]), v: { ...v, values: v.values?.map(Math.abs) } };
      // Three roundings of terms of at most 1 each; the update is lr · m/√v, with √v down to about 1e-4 and m near 1.
      const tolerances = { m: { absolute: 4 * ulp }, v: { absolute: 4 * ulp }, parameter: { relative: 4 * ulp, absolute: 1e-6 } };
      yield call('adamw', { gradient: uniform('f32', [n]) }, outputs, { ...attributes, ...change }, tolerances);
    }
  }
}

export const elementwiseCases: readonly Case[] = [...copies(), ...sums(), ...activations(), ...softcaps(), ...dropout(), ...adamw()];
