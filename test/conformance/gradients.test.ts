import { afterAll, describe, expect, test } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend } from '../../src/core/backend.js';
import { activationKinds, type OpName, opDeclarations, opTable } from '../../src/core/ops.table.js';
import { scope } from '../../src/core/scope.js';
import { Gradients, Tape } from '../../src/core/tape.js';
import { empty, fromArray, type Tensor, zeros } from '../../src/core/tensor.js';
import {
  activation,
  add,
  attention,
  combineRows,
  dispatchRows,
  embedding,
  gated,
  groupedLinear,
  layerNorm,
  linear,
  linearCrossEntropy,
  mul,
  rmsNorm,
  rope,
  route,
  shortConv,
  softcap,
} from '../../src/ops/index.js';
import { Random } from '../../src/util/philox.js';
import { notRun, withoutNative } from '../helpers/native.js';
import { type Float, given, uniform, whole } from './case.js';
import { type Device, devices } from './devices.js';

type Parameters = Readonly<Record<string, Tensor>>;
type Numbers = Readonly<Record<string, Float32Array>>;

/** A function of the parameters, which have these shapes; its gradients come from the tape unless `backward` is there. */
interface Differentiable {
  readonly name: string;
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  value(parameters: Parameters, backend: Backend): Tensor;
  /** Gives the gradients of Σ value, where the function has its own way. */
  backward?(parameters: Parameters, backend: Backend, gradients: Gradients): void;
}

const upload = (backend: Backend, { values, shape, dtype }: ReturnType<typeof given>) =>
  fromArray(backend, values as Float32Array, shape, dtype);

const segments = Int32Array.of(0, 3, 0, 3, 3, 4, 3, 4, 4, 9, 4, 9);
const table = (backend: Backend, rows: Int32Array) => ({ table: fromArray(backend, rows, [rows.length / 4, 4]), rows });

interface AttentionForm {
  readonly window?: number;
  readonly softcap?: number;
  readonly sinks?: boolean;
  readonly rows?: Int32Array;
}

function attentionForm(
  name: string,
  [heads, groups, headDim]: readonly [heads: number, groups: number, headDim: number],
  { window, softcap, sinks: hasSinks, rows = segments }: AttentionForm = {},
): Differentiable {
  const [queries, keys] = [rows.at(-3)!, rows.at(-1)!];
  const kv = [keys, groups * headDim];
  return {
    name: `attention, ${name}`,
    shapes: { q: [queries, heads * headDim], k: kv, v: kv, ...(hasSinks && { sinks: [heads] }) },
    value: ({ q, k, v, sinks }, backend) =>
      attention(q, k, v, table(backend, rows), { headDim, scale: headDim ** -0.5, window, softcap, sinks }).out,
  };
}

const frozen = Float32Array.from({ length: 24 }, (_, i) => (i % 7) / 8 - 0.4);
const dropout = { p: 0.4, seed: 5, stream: 6, step: 7 };
const lora = { x: [5, 6], weight: [4, 6], A: [3, 6], B: [4, 3] };
const angles = [uniform('f32', [4, 2]), uniform('f32', [4, 2])];
const [rows, targets] = [given('i32', [5], [0, 2, 3, 5, 6]), given('i32', [5], [1, 0, 6, 3, 3])];

function crossEntropy({ x, weight }: Parameters, backend: Backend, softcap: number, gradients?: Gradients) {
  // A vocabulary that is said to be large makes chunks of two positions.
  const options = { rows: upload(backend, rows), targets: upload(backend, targets), vocabulary: 2 ** 24, softcap, gradients };
  return linearCrossEntropy(x, (chunk) => linear(chunk, weight, { dtype: 'f32' }), options);
}

/** Losses times the weights of their rows, whose gradient the op computes with the weights. */
function weightedCrossEntropy(x: Tensor, backend: Backend, gradient?: Tensor): Tensor {
  const logits = empty(backend, x.shape, 'f32');
  backend.run('cast', { x }, { out: logits }, {});
  const weights = fromArray(backend, Float32Array.of(0.5, -2, 0, 1.25));
  const labels = fromArray(backend, Int32Array.of(4, 0, 2, 5));
  const losses = empty(backend, [4], 'f32');
  backend.run('crossEntropy', { logits, labels, weights }, { losses, gradient }, { scale: 1, softcap: 0 });
  backend.run('mul', { a: losses, b: weights }, { out: losses }, {});
  return losses;
}

/** Three experts, of which the last gets no token; what the router adds seldom reaches another choice, and its slopes are no noise. */
const choices = given('f32', [4, 3], [2.25, 0, -9, 0, 2.25, -9, 2, 0, -9, 0, 2, -9]);
function experts(k: number, normalize: boolean, balance?: number): Differentiable {
  const value = ({ x, gate, router, first, second, A, B, residual }: Parameters, backend: Backend) => {
    const vector = () => zeros(backend, [3], 'f32');
    const logits = linear(x, router, { dtype: 'f32', residual: upload(backend, choices) });
    const counted = balance === undefined ? undefined : { counts: vector(), probabilities: vector(), factor: balance };
    const routing = route(logits, { k, normalize, balance: counted });
    const rows = dispatchRows(x, routing);
    const stack = { A, B };
    const branch = (i: number) => ({ A: A.rows(2 * i, 2), B: B.rows(4 * i, 4), scale: 0.5, within: stack });
    const wide = groupedLinear(rows, routing.groups, [
      { weight: gate, lora: branch(0) },
      { weight: first, lora: branch(1) },
      { weight: gate },
    ]);
    const narrow = groupedLinear(
      wide,
      routing.groups,
      [second, upload(backend, narrowing), second].map((weight) => ({ weight })),
    );
    return combineRows(narrow, routing, residual);
  };
  const shapes = { x: [4, 2], gate: [4, 2], first: [4, 2], second: [2, 4], router: [3, 2], A: [4, 2], B: [8, 2], residual: [4, 2] };
  return { name: `${k} experts${normalize ? ', normalised' : ''}`, shapes, value };
}
const narrowing = uniform('f32', [2, 4]);

const functions: readonly Differentiable[] = [
  {
    name: 'embedding with repeated ids',
    shapes: { weight: [5, 3] },
    value: ({ weight }, backend) => embedding(fromArray(backend, Int32Array.of(4, 0, 4, 1, 4)), weight),
  },
  { name: 'linear', shapes: { x: [5, 6], weight: [4, 6], bias: [4] }, value: ({ x, weight, bias }) => linear(x, weight, { bias }) },
  { name: 'linear with LoRA', shapes: lora, value: ({ x, weight, A, B }) => linear(x, weight, { lora: { A, B, scale: 2 } }) },
  {
    name: 'linear with bias, LoRA and dropout',
    shapes: { ...lora, bias: [4] },
    value: ({ x, weight, bias, A, B }) => linear(x, weight, { bias, lora: { A, B, scale: 0.5, dropout } }),
  },
  {
    name: 'linear with LoRA, dropout and a residual that is its input',
    shapes: { ...lora, weight: [6, 6], B: [6, 3] },
    value: ({ x, weight, A, B }) => linear(x, weight, { residual: x, lora: { A, B, scale: 0.5, dropout } }),
  },
  {
    // Gradients gathered in place: by a frozen layer, by an adapter, by a norm.
    name: 'one tensor in several layers',
    shapes: { ...lora, x: [5, 6], w: [6], up: [4, 6] },
    value: ({ x, weight, A, B, w, up }, backend) => {
      const rotated = add(x, x);
      const first = linear(rotated, weight, { lora: { A, B, scale: 2 }, residual: linear(rotated, up) });
      const second = linear(rmsNorm(rotated, w, 1e-2), weight, { residual: first });
      return linear(rotated, fromArray(backend, frozen, [4, 6]), { residual: second });
    },
  },
  { name: 'rmsNorm', shapes: { x: [4, 5], weight: [5] }, value: ({ x, weight }) => rmsNorm(x, weight, 1e-2) },
  { name: 'rmsNorm with an offset', shapes: { x: [3, 7], weight: [7] }, value: ({ x, weight }) => rmsNorm(x, weight, 1e-2, 1) },
  {
    name: 'layerNorm',
    shapes: { x: [4, 5], weight: [5], bias: [5] },
    value: ({ x, weight, bias }) => layerNorm(x, weight, bias, 1e-2),
  },
  { name: 'layerNorm without a bias', shapes: { x: [3, 7], weight: [7] }, value: ({ x, weight }) => layerNorm(x, weight, undefined, 1e-2) },
  {
    // Both norms add to what the sum has given.
    name: 'layerNorm of one tensor in several places',
    shapes: { x: [4, 5], weight: [5], bias: [5] },
    value: ({ x, weight, bias }) => add(layerNorm(x, weight, bias, 1e-2), add(x, layerNorm(x, bias, weight, 1e-2))),
  },
  ...[false, true].map(
    (interleaved): Differentiable => ({
      name: `rope that leaves a part of the head${interleaved ? ', of neighbours' : ''}`,
      shapes: { x: [3, 10] },
      value: ({ x }, backend) => {
        const [cos, sin] = angles.map((values) => upload(backend, values));
        return rope(x, { cos, sin }, fromArray(backend, Int32Array.of(3, 0, 1)), { headDim: 5, interleaved });
      },
    }),
  ),
  ...activationKinds.map(
    (kind): Differentiable => ({ name: `activation ${kind}`, shapes: { x: [3, 5] }, value: ({ x }) => activation(x, kind) }),
  ),
  ...activationKinds.map(
    (kind): Differentiable => ({
      name: `gated by ${kind}`,
      shapes: { gate: [3, 5], up: [3, 5] },
      value: ({ gate, up }) => gated(gate, up, kind),
    }),
  ),
  experts(1, false),
  experts(2, true),
  experts(2, false),
  { name: 'add', shapes: { a: [3, 4], b: [3, 4] }, value: ({ a, b }) => add(a, b) },
  { name: 'add of one tensor twice', shapes: { a: [3, 4] }, value: ({ a }) => add(a, add(a, a)) },
  attentionForm('packed, grouped queries', [4, 2, 3]),
  attentionForm('window', [2, 1, 4], { window: 2 }),
  attentionForm('one key each', [2, 2, 3], { window: 1 }),
  attentionForm('cached keys', [2, 1, 3], { rows: Int32Array.of(0, 2, 0, 5, 2, 3, 5, 8) }),
  attentionForm('soft cap', [4, 2, 3], { softcap: 0.5 }),
  attentionForm('sinks', [4, 2, 3], { sinks: true }),
  attentionForm('window, soft cap and sinks', [2, 1, 4], { window: 3, softcap: 0.7, sinks: true }),
  { name: 'mul', shapes: { a: [3, 4], b: [3, 4] }, value: ({ a, b }) => mul(a, b) },
  {
    name: 'shortConv, packed',
    shapes: { x: [9, 3], weight: [3, 1, 4] },
    value: ({ x, weight }, backend) => shortConv(x, weight, table(backend, segments)),
  },
  { name: 'softcap', shapes: { x: [3, 4] }, value: ({ x }) => softcap(x, 0.6) },
  ...[0, 0.8].map(
    (cap): Differentiable => ({
      name: `linearCrossEntropy in chunks, soft cap ${cap}`,
      shapes: { x: [7, 5], weight: [9, 5] },
      value: (parameters, backend) => crossEntropy(parameters, backend, cap).losses,
      backward: (parameters, backend, gradients) => {
        gradients.accumulate(parameters.x, crossEntropy(parameters, backend, cap, gradients).dx!);
      },
    }),
  ),
  {
    name: 'crossEntropy with weights of rows',
    shapes: { logits: [4, 6] },
    value: ({ logits }, backend) => weightedCrossEntropy(logits, backend),
    backward: ({ logits }, backend, gradients) => {
      const gradient = empty(backend, logits.shape, 'f32');
      weightedCrossEntropy(logits, backend, gradient);
      gradients.accumulate(logits, gradient);
    },
  },
];

/** Parameters on a grid of 2⁻¹⁰, so that steps of powers of two are exact. */
function point({ shapes }: Differentiable): Numbers {
  const values = Object.entries(shapes).map(([name, shape]) => {
    return [name, Float32Array.from(whole(shape, -1024, 1024).values!, (n) => n / 1024)];
  });
  return Object.fromEntries(values);
}

function parametersOf(backend: Backend, { shapes }: Differentiable, at: Numbers, dtype: Float): Parameters {
  const tensors = Object.entries(shapes).map(([name, shape]) => {
    // Sinks are of f32 alone.
    const tensor = fromArray(backend, at[name], shape, name === 'sinks' ? 'f32' : dtype);
    tensor.requiresGrad = true;
    return [name, tensor];
  });
  return Object.fromEntries(tensors);
}

async function download(tensor: Tensor): Promise<Float32Array> {
  const values = await tensor.toFloat32();
  tensor.dispose();
  return values;
}

function evaluate(backend: Backend, f: Differentiable, at: Numbers, dtype: Float = 'f32'): Promise<Float32Array> {
  return download(scope(() => f.value(parametersOf(backend, f, at, dtype), backend)));
}

/** Weights of the sum over the value's elements that is differentiated. */
function weightsOf(f: Differentiable, size: number): Float32Array {
  const random = new Random(3, 4);
  return Float32Array.from({ length: size }, () => (f.backward ? 1 : 2 * random.next() - 1));
}

async function gradientsOf(backend: Backend, f: Differentiable, at: Numbers, dtype: Float = 'f32'): Promise<Numbers> {
  const names = Object.keys(f.shapes);
  const gradients = new Gradients();
  const parameters = scope(() => {
    const leaves = parametersOf(backend, f, at, dtype);
    if (f.backward) {
      f.backward(leaves, backend, gradients);
      return leaves;
    }
    const tape = new Tape();
    const y = tape.record(() => f.value(leaves, backend));
    tape.backward(y, fromArray(backend, weightsOf(f, y.size), y.shape, dtype), gradients);
    return leaves;
  });
  const values = await Promise.all(names.map((name) => gradients.get(parameters[name])!.toFloat32()));
  gradients.clear();
  return Object.fromEntries(names.map((name, i) => [name, values[i]]));
}

/** d/dx of Σ weights · value by four points: the error is of the order of step⁴ and of f32's rounding divided by the step. */
async function slope(backend: Backend, f: Differentiable, at: Numbers, name: string, i: number): Promise<number> {
  const step = 2 ** -6;
  const loss = async (steps: number) => {
    const moved = at[name].slice();
    moved[i] += steps * step;
    const y = await evaluate(backend, f, { ...at, [name]: moved });
    const weights = weightsOf(f, y.length);
    return y.reduce((sum, value, j) => sum + weights[j] * value, 0);
  };
  const [far, near] = [(await loss(2)) - (await loss(-2)), (await loss(1)) - (await loss(-1))];
  return (8 * near - far) / (12 * step);
}

/** The largest difference, of the largest number. */
function distance(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  const largest = (values: Float32Array) => values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  expect(a.every(Number.isFinite)).toBe(true);
  return largest(a.map((value, i) => value - b[i])) / Math.max(1e-3, largest(b));
}

const fused = (Object.keys(opTable) as OpName[]).filter((op) => opDeclarations[op].fused);
/** The same backend as if it had no fused ops. */
function composed(backend: Backend): Backend {
  const supports = (op: OpName) => !fused.includes(op);
  return new Proxy(backend, {
    get: (target, key) => {
      const member = key === 'supports' ? supports : target[key as keyof Backend];
      return typeof member === 'function' ? member.bind(target) : member;
    },
  });
}

/** The richest instruction set, on two threads. */
const cpu = devices.findLast(({ name, skip }) => name.startsWith('cpu') && !skip);
if (!cpu && withoutNative !== undefined) notRun('cpu, with and without fused ops', withoutNative);
const [{ tolerance: exact }] = devices;
const open: readonly (Pick<Device, 'name' | 'tolerance'> & { backend: Backend })[] = [
  { name: 'reference', backend: new ReferenceBackend(), tolerance: exact },
  { name: 'reference without fused ops', backend: new ReferenceBackend({ without: fused }), tolerance: exact },
  ...(cpu ? [{ name: 'cpu', backend: await cpu.open(), tolerance: cpu.tolerance }] : []),
  ...(cpu ? [{ name: 'cpu without fused ops', backend: composed(await cpu.open()), tolerance: cpu.tolerance }] : []),
];
afterAll(async () => {
  for (const { backend } of open) await backend.close();
});
const reference = open[0].backend;

describe.each(open)('$name', ({ backend, tolerance: device }) => {
  test.each(functions)('the gradients of $name are its slopes', async (f) => {
    const at = point(f);
    const gradients = await gradientsOf(backend, f, at);
    for (const [name, gradient] of Object.entries(gradients)) {
      const slopes = new Float32Array(gradient.length);
      for (let i = 0; i < slopes.length; i++) slopes[i] = await slope(backend, f, at, name, i);
      expect(distance(gradient, slopes), name).toBeLessThan(2e-4);
    }
    expect(backend.memory().currentOf.activations).toBe(0);
  });

  // In bf16 each stored number may be off by 2⁻⁸ of itself, and sums of some of them by a little more.
  test.each([
    ['f32', 1e-5],
    ['bf16', 2 ** -6],
  ] as [Float, number][])('every function equals the fused reference in %s', async (dtype, usual) => {
    const tolerance = usual * device[dtype].times;
    for (const f of functions) {
      const at = point(f);
      const [got, want] = [await evaluate(backend, f, at, dtype), await evaluate(reference, f, at, dtype)];
      expect(distance(got, want), f.name).toBeLessThan(tolerance);
      const [slopes, wanted] = [await gradientsOf(backend, f, at, dtype), await gradientsOf(reference, f, at, dtype)];
      for (const name of Object.keys(wanted)) expect(distance(slopes[name], wanted[name]), `${f.name}: d${name}`).toBeLessThan(tolerance);
    }
  });
});
