import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend, TensorView } from '../../src/core/backend.js';
import { LowrankError } from '../../src/util/errors.js';
import { type Case, call, given, result, uniform } from './case.js';
import { testable } from './devices.js';
import { run } from './run.js';

const f32 = (...shape: number[]) => uniform('f32', shape);
const bf16 = (...shape: number[]) => uniform('bf16', shape);
const ints = (...values: number[]) => given('i32', [values.length], values);
const out = (...shape: number[]) => result('f32', shape);

const loss = { scale: 1, softcap: 0 };
const product = { transposeA: false, transposeB: true, alpha: 1, accumulate: false };
const heads = { headDim: 4, scale: 1, window: 0, softcap: 0 };
const lowRank = { x: f32(2, 3), weight: f32(5, 3), A: f32(4, 3), B: f32(5, 4) };
const adamw = { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, step: 1, gradientScale: 1 };
const bytes = (n: number) => result('u8', [n]);
const lion = { lr: 1e-3, beta1: 0.9, beta2: 0.99 };
const eightBit = { gradient: f32(257), values: f32(256), codes: bytes(65536) };
const eightBitAdamw = { gradient: f32(2), valuesM: f32(256), codesM: bytes(65536), valuesV: f32(256), codesV: bytes(65536) };
const adafactor = { lr: 1e-3, beta2: 0.5, eps: 1e-30, clipThreshold: 1, weightDecay: 0, gradientScale: 1 };

function attention(...segments: number[]): Case {
  const operands = { q: f32(6, 8), k: f32(6, 4), v: f32(6, 4), segments: given('i32', [segments.length / 4, 4], segments) };
  return call('attention', operands, { out: out(6, 8), lse: out(6, 2) }, heads);
}

const qkv = { q: f32(6, 12), k: f32(6, 8), v: f32(6, 8), segments: given('i32', [1, 4], [0, 6, 0, 6]) };
const turns = { interleaved: false, back: false };
const rotary = { x: f32(2, 8), cos: f32(5, 2), sin: f32(5, 2), positions: ints(0, 4) };

/** Calls that the op table forbids. */
const refusals: readonly [reason: string, call: Case][] = [
  ['operands of two sizes', call('add', { a: f32(2, 3), b: f32(2, 4) }, { out: out(2, 3) }, {})],
  ['a result of another size', call('mul', { a: f32(6), b: f32(6) }, { out: out(5) }, {})],
  ['integers', call('add', { a: ints(1, 2), b: f32(2) }, { out: out(2) }, {})],
  ['f16 where it is not a float', call('accumulate', { x: uniform('f16', [2]) }, { out: f32(2) }, { factor: 1 })],
  ['integers to cast', call('cast', { x: ints(1, 2) }, { out: out(2) }, {})],
  ['fewer elements', call('cast', { x: f32(6) }, { out: result('bf16', [5]) }, {})],
  ['an unknown activation', call('activation', { x: f32(2) }, { y: out(2) }, { kind: 'relu' as never })],
  ['factors that do not fit', call('matmul', { a: f32(2, 3), b: f32(5, 4) }, { out: out(2, 5) }, product)],
  ['a product of another shape', call('matmul', { a: f32(2, 3), b: f32(5, 3) }, { out: out(5, 2) }, product)],
  ['a factor that is no matrix', call('matmul', { a: f32(6), b: f32(5, 6) }, { out: out(1, 5) }, product)],
  ['a bias of another width', call('addBias', { x: f32(2, 3), bias: f32(2) }, { out: out(2, 3) }, {})],
  ['sums in bf16', call('columnSum', { x: f32(2, 3) }, { out: bf16(3) }, {})],
  ['a row past the end', call('gatherRows', { x: f32(3, 2), rows: ints(0, 3) }, { out: out(2, 2) }, {})],
  ['a negative row', call('gatherRows', { x: f32(3, 2), rows: ints(-1) }, { out: out(1, 2) }, {})],
  ['rows in f32', call('gatherRows', { x: f32(3, 2), rows: f32(2) }, { out: out(2, 2) }, {})],
  ['a row past the end', call('writeRows', { x: f32(1, 2), rows: ints(3) }, { out: f32(3, 2) }, {})],
  ['a negative row', call('addRows', { x: f32(1, 2), rows: ints(-7) }, { out: f32(3, 2) }, {})],
  ['a part past the end', call('slice', { x: f32(3, 4) }, { out: out(2, 2) }, { row: 2, column: 0 })],
  ['a negative column', call('slice', { x: f32(3, 4) }, { out: out(2, 2) }, { row: 0, column: -1 })],
  ['a part past the end', call('place', { x: f32(2, 2) }, { out: f32(3, 4) }, { row: 0, column: 3, accumulate: false })],
  ['a weight of another width', call('rmsNorm', { x: f32(2, 3), weight: f32(2) }, { y: out(2, 3), rstd: out(2) }, { eps: 0, offset: 0 })],
  ['a position past the tables', call('rope', { ...rotary, positions: ints(0, 5) }, { out: out(2, 8) }, { headDim: 4, ...turns })],
  ['heads that do not fit', call('rope', rotary, { out: out(2, 8) }, { headDim: 3, ...turns })],
  ['tables wider than a head', call('rope', rotary, { out: out(2, 8) }, { headDim: 2, ...turns })],
  ['bf16 probabilities', call('softmax', { x: bf16(2, 2) }, { y: out(2, 2) }, { offset: 0, window: 0 })],
  ['segments with a gap', attention(0, 2, 0, 2, 3, 6, 3, 6)],
  ['segments that overlap', attention(0, 4, 0, 4, 3, 6, 3, 6)],
  ['segments that end early', attention(0, 5, 0, 5)],
  ['keys past the end', attention(0, 6, 1, 7)],
  ['fewer keys than queries', attention(0, 6, 0, 5)],
  ['query heads that the key heads do not divide', call('attention', qkv, { out: out(6, 12), lse: out(6, 3) }, heads)],
  ['sinks for another number of heads', call('attention', { ...qkv, sinks: f32(2) }, { out: out(6, 12), lse: out(6, 3) }, heads)],
  ['a label past the vocabulary', call('crossEntropy', { logits: f32(2, 3), labels: ints(0, 3) }, { losses: out(2) }, loss)],
  [
    'a weight for one of two rows',
    call('crossEntropy', { logits: f32(2, 3), labels: ints(0, 1), weights: f32(1) }, { losses: out(2) }, loss),
  ],
  ['a sure zero', call('dropoutMask', {}, { mask: result('i32', [1, 2]) }, { p: 1, seed: 0, stream: 0, step: 0 })],
  [
    'a mask of another width',
    call('dropout', { x: f32(2, 33), mask: given('i32', [2, 1], [0, 0]) }, { out: out(2, 33) }, { maskScale: 1 }),
  ],
  [
    'a low rank that does not fit',
    call('loraLinear', { ...lowRank, B: f32(5, 3) }, { y: out(2, 5), h: out(2, 4) }, { scale: 1, maskScale: 1 }),
  ],
  [
    'a mask of more rows',
    call('loraLinear', { ...lowRank, mask: given('i32', [3, 1], [0, 0, 0]) }, { y: out(2, 5), h: out(2, 4) }, { scale: 1, maskScale: 1 }),
  ],
  [
    'an inner gradient of another rank',
    call(
      'loraLinearBackward',
      { dy: f32(2, 5), weight: f32(5, 3), A: f32(4, 3), B: f32(5, 4) },
      { dx: out(2, 3), dh: out(2, 3) },
      { scale: 1, maskScale: 1 },
    ),
  ],
  [
    'gradients of another shape',
    call('loraGradients', { x: f32(2, 3), h: f32(2, 4), dy: f32(2, 5), dh: f32(2, 4) }, { dA: out(3, 4), dB: out(5, 4) }, { maskScale: 1 }),
  ],
  ['a flag that is a number', call('matmul', { a: f32(2, 3), b: f32(5, 3) }, { out: out(2, 5) }, { ...product, accumulate: 1 as never })],
  ['a place that is not whole', call('slice', { x: f32(3, 4) }, { out: out(2, 2) }, { row: 0.5, column: 0 })],
  ['a missing attribute', call('accumulate', { x: f32(2) }, { out: f32(2) }, {} as never)],
  ['a negative seed', call('dropoutMask', {}, { mask: result('i32', [1, 2]) }, { p: 0.5, seed: -1, stream: 0, step: 0 })],
  ['an index in f32', call('argmax', { x: f32(2, 3) }, { index: out(2) }, {})],
  ['states in bf16', call('adamw', { gradient: f32(2) }, { parameter: f32(2), m: bf16(2), v: f32(2) }, adamw)],
  [
    'one scale for two blocks',
    call('lion8bit', eightBit, { parameter: f32(257), m: bytes(257), absmax: f32(1) }, { ...lion, weightDecay: 0, gradientScale: 1 }),
  ],
  [
    'a map of fewer numbers',
    call(
      'lion8bit',
      { ...eightBit, values: f32(255) },
      { parameter: f32(257), m: bytes(257), absmax: f32(2) },
      { ...lion, weightDecay: 0, gradientScale: 1 },
    ),
  ],
  [
    'a momentum of another size',
    call('lion', { gradient: f32(2) }, { parameter: f32(2), m: f32(3) }, { ...lion, weightDecay: 0, gradientScale: 1 }),
  ],
  ['a gradient of another size', call('sgd', { gradient: f32(3) }, { parameter: f32(2) }, { lr: 1, weightDecay: 0, gradientScale: 1 })],
  ['a matrix with the state of a vector', call('adafactor', { gradient: f32(2, 3) }, { parameter: f32(2, 3), v: f32(2, 3) }, adafactor)],
  ['a vector without a state', call('adafactor', { gradient: f32(3) }, { parameter: f32(3) }, adafactor)],
  [
    'scales in bf16',
    call('adamw8bit', eightBitAdamw, { parameter: f32(2), m: bytes(2), absmaxM: bf16(1), v: bytes(2), absmaxV: f32(1) }, adamw),
  ],
];

describe.each(testable())('$name', ({ open }) => {
  let backend: Backend;
  beforeAll(async () => {
    backend = await open();
  });
  afterAll(() => backend.close());

  const named = refusals.map(([reason, entry]) => [entry.op, reason, entry] as const);
  test.for(named)('%s refuses %s', async ([, , entry], { skip }) => {
    if (!backend.supports(entry.op)) skip('the backend lacks this op');
    const attempt = run(backend, entry).then(() => backend.sync());
    await expect(attempt).rejects.toThrow(LowrankError);
    await expect(attempt).rejects.toThrow(new RegExp(`^${entry.op}: `));
    // The error is over: the backend goes on.
    await run(backend, call('fill', {}, { out: out(3) }, { value: 1 }));
  });

  test('refuses memory that it does not have', async () => {
    const buffer = backend.allocate(64, 'workspace');
    const fill = (offset: number, shape: number[], into = buffer) => {
      backend.run('fill', {}, { out: { buffer: into, offset, dtype: 'f32', shape } }, { value: 0 });
    };
    expect(() => fill(0, [17])).toThrow(LowrankError);
    expect(() => fill(4, [16])).toThrow(LowrankError);
    expect(() => fill(-4, [1])).toThrow(LowrankError);
    expect(() => fill(2, [1])).toThrow(/align/);
    expect(() => backend.write(buffer, new Uint8Array(64), 1)).toThrow(LowrankError);
    await expect((async () => backend.read(buffer, 60, 5))()).rejects.toThrow(LowrankError);
    const other = await open();
    expect(() => fill(0, [1], other.allocate(64, 'workspace'))).toThrow(LowrankError);
    await other.close();
    expect(() => other.allocate(64, 'workspace')).toThrow(LowrankError);
    backend.free(buffer);
    expect(() => fill(0, [1])).toThrow(/freed/);
    expect(() => backend.free(buffer)).toThrow(/freed/);
    await backend.sync();
  });

  test('counts memory by category', () => {
    const { currentOf } = backend.memory();
    const buffers = [backend.allocate(100, 'weights'), backend.allocate(50, 'logits')];
    expect(backend.memory().currentOf.weights - currentOf.weights).toBe(100);
    expect(backend.memory().currentOf.logits - currentOf.logits).toBe(50);
    backend.free(buffers[1]);
    expect(backend.memory().currentOf.logits).toBe(currentOf.logits);
    expect(backend.memory().peakOf.logits).toBeGreaterThanOrEqual(50);
    backend.resetPeak();
    expect(backend.memory().peakOf.logits).toBe(currentOf.logits);
    backend.free(buffers[0]);
  });
});

describe('memory that the op table does not let operands share is refused by the reference', () => {
  const backend = new ReferenceBackend();
  const buffer = backend.allocate(256, 'workspace');
  const view = (offset: number, ...shape: number[]): TensorView => ({ buffer, offset, dtype: 'f32', shape });

  test('an output on an input', () => {
    expect(() => backend.run('gated', { gate: view(0, 4), up: view(64, 4) }, { out: view(0, 4) }, { kind: 'silu' })).toThrow(
      /^gated: out: shares memory with gate\n.*memory of its own/,
    );
    const second = { gate: view(0, 4), up: view(64, 4), dout: view(128, 4) };
    expect(() => backend.run('gatedBackward', second, { dgate: view(64, 4), dup: view(192, 4) }, { kind: 'silu' })).toThrow(
      /dgate: shares memory with up\n.*all of gate/,
    );
  });

  test('an output on a part of an input that it may be', () => {
    expect(() => backend.run('add', { a: view(0, 4), b: view(64, 4) }, { out: view(4, 4) }, {})).toThrow(/shares memory with a/);
    expect(() => backend.run('add', { a: view(0, 2, 2), b: view(64, 2, 2) }, { out: view(0, 4) }, {})).toThrow(/shares memory with a/);
    expect(() => backend.run('add', { a: view(0, 4), b: view(64, 4) }, { out: view(16, 4) }, {})).not.toThrow();
  });

  test('two outputs on each other', () => {
    const weight = view(64, 4);
    expect(() =>
      backend.run('rmsNorm', { x: view(0, 2, 4), weight }, { y: view(128, 2, 4), rstd: view(156, 2) }, { eps: 0, offset: 0 }),
    ).toThrow(/y: shares memory with rstd/);
  });
});
