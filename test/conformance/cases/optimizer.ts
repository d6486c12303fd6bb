import { binCodes, dynamicMap, stateBlock } from '../../../src/quant/dynamic-map.js';
import { type Case, call, type Given, uniform, whole } from '../case.js';

/** Below, at and past a block of states, and past the least number of 8-bit elements. */
const sizes = [1, 255, 256, 257, 4097];

const [signed, unsigned] = [true, false].map(dynamicMap);
const valuesM: Given = { dtype: 'f32', shape: [256], values: signed };
const valuesV: Given = { dtype: 'f32', shape: [256], values: unsigned };
const codesM: Given = { dtype: 'u8', shape: [65536], values: binCodes(signed) };
const codesV: Given = { dtype: 'u8', shape: [65536], values: binCodes(unsigned) };

const f32 = (shape: number[], size = 1) => uniform('f32', shape, size);
const positive = (shape: number[]): Given => ({ dtype: 'f32', shape, values: Float32Array.from(f32(shape).values!, Math.abs) });
const blocks = (n: number) => [Math.ceil(n / stateBlock)];
const codes = (n: number): Given => ({ dtype: 'u8', shape: [n], values: Uint8Array.from(whole([n], 0, 256).values!) });

/** A state of 8 bits that holds nothing yet. */
const fresh = (n: number) => [
  { dtype: 'u8', shape: [n], values: new Uint8Array(n) } as const,
  { dtype: 'f32', shape: blocks(n), values: new Float32Array(blocks(n)[0]) } as const,
];

function* adamw8bit(): Generator<Case> {
  const attributes = { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.1, step: 1, gradientScale: 1 };
  // States must be equal bit for bit. The update is lr · m/√v, with √v from about 1e-3 and m near 1.
  const tolerances = { parameter: { relative: 2 ** -22, absolute: 1e-6 } };
  const inputs = { valuesM, codesM, valuesV, codesV };
  for (const n of sizes) {
    const [m, absmaxM] = fresh(n);
    yield call(
      'adamw8bit',
      { gradient: f32([n]), ...inputs },
      { parameter: f32([n]), m, absmaxM, v: m, absmaxV: absmaxM },
      attributes,
      tolerances,
    );
    const states = { m: codes(n), absmaxM: positive(blocks(n)), v: codes(n), absmaxV: positive(blocks(n)) };
    const later = { ...attributes, step: 1000, gradientScale: 0.37, weightDecay: 0 };
    yield call('adamw8bit', { gradient: f32([n]), ...inputs }, { parameter: f32([n]), ...states }, later, tolerances);
  }
  // A block of zeros beside one that is not, in a matrix.
  const gradient: Given = { dtype: 'f32', shape: [2, 256], values: f32([2, 256]).values!.map((g, i) => (i < 256 ? 0 : g)) };
  const [codesOfBlocks, absmaxM] = fresh(512);
  const m = { ...codesOfBlocks, shape: [2, 256] };
  const outputs = { parameter: f32([2, 256]), m, absmaxM, v: m, absmaxV: absmaxM };
  yield call('adamw8bit', { gradient, ...inputs }, outputs, attributes, tolerances);
}

function* lion(): Generator<Case> {
  const attributes = { lr: 1e-2, beta1: 0.9, beta2: 0.99, weightDecay: 0.1, gradientScale: 0.5 };
  const tolerances = { parameter: { absolute: 2 ** -23 } };
  for (const n of sizes) {
    yield call('lion', { gradient: f32([n]) }, { parameter: f32([n]), m: f32([n]) }, attributes, tolerances);
    const [m, absmax] = fresh(n);
    const inputs = { values: valuesM, codes: codesM };
    yield call('lion8bit', { gradient: f32([n]), ...inputs }, { parameter: f32([n]), m, absmax }, attributes, tolerances);
    const outputs = { parameter: f32([n]), m: codes(n), absmax: positive(blocks(n)) };
    yield call('lion8bit', { gradient: f32([n]), ...inputs }, outputs, { ...attributes, weightDecay: 0 }, tolerances);
  }
}

function* sgd(): Generator<Case> {
  for (const n of sizes) {
    const attributes = { lr: 0.1, weightDecay: n === 255 ? 0 : 0.1, gradientScale: 0.7 };
    yield call('sgd', { gradient: f32([n]) }, { parameter: f32([n]) }, attributes, { parameter: { absolute: 2 ** -22 } });
  }
}

function* adafactor(): Generator<Case> {
  const attributes = { lr: 1e-2, beta2: 0.5, eps: 1e-30, clipThreshold: 1, weightDecay: 0.1, gradientScale: 0.7 };
  // Means of positive numbers: their roundings do not add up. An update is at most some tens of lr.
  const mean = { relative: 2 ** -20 };
  const tolerances = { row: mean, column: mean, v: mean, parameter: { relative: 2 ** -22, absolute: 1e-6 } };
  for (const shape of [
    [1, 1],
    [3, 257],
    [64, 17],
    [1, 300],
    [130, 1],
    [259, 513],
  ]) {
    const [row, column] = [positive([shape[0]]), positive([shape[1]])];
    yield call('adafactor', { gradient: f32(shape) }, { parameter: f32(shape), row, column }, attributes, tolerances);
  }
  for (const n of [...sizes, 40000]) {
    yield call('adafactor', { gradient: f32([n]) }, { parameter: f32([n]), v: positive([n]) }, attributes, tolerances);
    // The first step: no decay, and updates too small to be clipped.
    const first = { ...attributes, beta2: 0, weightDecay: 0, clipThreshold: 2 };
    const v: Given = { dtype: 'f32', shape: [n], values: new Float32Array(n) };
    yield call('adafactor', { gradient: f32([n]) }, { parameter: f32([n]), v }, first, tolerances);
  }
}

export const optimizerCases: readonly Case[] = [...adamw8bit(), ...lion(), ...sgd(), ...adafactor()];
