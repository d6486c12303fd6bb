import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openCpuBackend } from '../../src/backends/cpu/index.js';
import type { Backend } from '../../src/core/backend.js';
import { Gradients } from '../../src/core/tape.js';
import { fromArray, type Tensor } from '../../src/core/tensor.js';
import { localFolder } from '../../src/io/node/folder.js';
import { encodeSafetensors } from '../../src/io/safetensors.js';
import { createOptimizer, type OptimizerName } from '../../src/optim/optimizer.js';
import { Random } from '../../src/util/philox.js';
import { askPeers, relativeError, temporaryFolder, tensorsOf } from './peers.js';

/** Two matrices with 8-bit states, one with a last, partial block, and a vector that is too small for them. */
const shapes: Record<string, readonly number[]> = { even: [64, 100], odd: [37, 131], small: [300] };
const steps = 10;
const options = { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.05 };

const folder = temporaryFolder();
const random = new Random(11, 0);
const elements = (shape: readonly number[]) => shape.reduce((n, m) => n * m, 1);
/** Numbers of many magnitudes, some of them 0. */
const spread = (shape: readonly number[]) =>
  Float32Array.from({ length: elements(shape) }, () => (random.next() < 0.05 ? 0 : (2 * random.next() - 1) * 10 ** (-4 * random.next())));
const start = new Map(Object.entries(shapes).map(([name, shape]) => [name, spread(shape)]));
const gradients = Array.from({ length: steps }, () => new Map(Object.entries(shapes).map(([name, shape]) => [name, spread(shape)])));

const names: readonly OptimizerName[] = ['adamw_torch', 'adamw_bnb_8bit', 'lion_pytorch', 'lion_8bit', 'adafactor', 'sgd'];
let backend: Backend;
beforeAll(async () => {
  backend = await openCpuBackend({ threads: 2 });
  const write = async (file: string, values: readonly [string, Float32Array, readonly number[]][]) => {
    const entries = values.map(([name, data, shape]) => ({
      name,
      dtype: 'F32',
      shape,
      data: async () => new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    }));
    await localFolder(folder.path).write(file, encodeSafetensors(entries));
  };
  await write(
    'start.safetensors',
    [...start].map(([name, data]) => [name, data, shapes[name]]),
  );
  await write(
    'gradients.safetensors',
    gradients.flatMap((step, i) =>
      [...step].map(([name, data]): [string, Float32Array, readonly number[]] => [`${i}.${name}`, data, shapes[name]]),
    ),
  );
  const given = { start: join(folder.path, 'start.safetensors'), gradients: join(folder.path, 'gradients.safetensors'), steps, options };
  await askPeers(
    folder.path,
    names.map((name) => ({ do: 'optimize', name, ...given, out: join(folder.path, `${name}.safetensors`) })),
  );
});
afterAll(async () => {
  await backend.close();
  folder.remove();
});

/** Parameters and states after each step, under the peers' names. */
async function ours(name: OptimizerName): Promise<Map<string, Float32Array>> {
  const parameters = new Map([...start].map(([key, values]) => [key, fromArray(backend, values, shapes[key])]));
  const { beta1: adam_beta1, beta2: adam_beta2, eps: adam_epsilon, weight_decay } = options;
  const optimizer = createOptimizer(name, parameters, { adam_beta1, adam_beta2, adam_epsilon, weight_decay });
  const numbers = async (tensor: Tensor) => (tensor.dtype === 'u8' ? Float32Array.from(await tensor.read()) : tensor.toFloat32());
  const result = new Map<string, Float32Array>();
  for (const [i, step] of gradients.entries()) {
    const now = new Gradients();
    for (const [key, values] of step) now.set(parameters.get(key)!, fromArray(backend, values, shapes[key]));
    optimizer.step(now, options.lr, 1);
    for (const [key, tensor] of parameters) result.set(`${i}.parameter.${key}`, await tensor.toFloat32());
    for (const [key, tensor] of optimizer.tensors()) result.set(`${i}.${key}`, await numbers(tensor));
    for (const gradient of now.values()) gradient.dispose();
  }
  optimizer.dispose();
  for (const parameter of parameters.values()) parameter.dispose();
  return result;
}

/** bitsandbytes names its 32-bit states like its 8-bit ones. */
const wordsOf32bit: Record<string, string> = { exp_avg: 'state1', exp_avg_sq: 'state2' };

test.each(names)('%s equals the peer’s, step by step', async (name) => {
  const theirs = await tensorsOf(join(folder.path, `${name}.safetensors`));
  const mine = await ours(name);
  let compared = 0;
  for (const [key, values] of mine) {
    const [step, state, parameter] = key.split('.');
    const want = theirs.get(key) ?? theirs.get([step, wordsOf32bit[state], parameter].join('.'));
    expect(want, key).toBeDefined();
    if (/^(state|absmax)\d$/.test(state)) {
      // Every code and every scale.
      expect(differing(values, want!), key).toBe(0);
    } else {
      // Some roundings in f32 per step.
      expect(relativeError(values, want!), key).toBeLessThan(1e-6);
    }
    compared++;
  }
  expect(compared).toBe(theirs.size);
});

function differing(a: Float32Array, b: Float32Array): number {
  return a.length === b.length ? a.reduce((count, value, i) => count + (value === b[i] ? 0 : 1), 0) : Number.POSITIVE_INFINITY;
}
