import { expect, test } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import { Gradients } from '../../src/core/tape.js';
import { fromArray } from '../../src/core/tensor.js';
import { createOptimizer, type OptimizerName, optimizers } from '../../src/optim/optimizer.js';

const options = { adam_beta1: 0.9, adam_beta2: 0.99, adam_epsilon: 1e-8, weight_decay: 0 };

/** A backend, a matrix of 4096 elements, and a vector of 4095. */
function parameters() {
  const backend = new ReferenceBackend();
  const ones = (...shape: number[]) => fromArray(backend, new Float32Array(shape.reduce((n, m) => n * m, 1)).fill(1), shape);
  return { backend, byName: new Map([['large', ones(2, 2048)] as const, ['small', ones(4095)] as const]) };
}

const states: Record<OptimizerName, string[]> = {
  adamw_torch: ['exp_avg.large', 'exp_avg_sq.large', 'exp_avg.small', 'exp_avg_sq.small'],
  adamw_torch_fused: ['exp_avg.large', 'exp_avg_sq.large', 'exp_avg.small', 'exp_avg_sq.small'],
  adamw_bnb_8bit: ['state1.large', 'absmax1.large', 'state2.large', 'absmax2.large', 'exp_avg.small', 'exp_avg_sq.small'],
  adamw_torch_8bit: ['state1.large', 'absmax1.large', 'state2.large', 'absmax2.large', 'exp_avg.small', 'exp_avg_sq.small'],
  paged_adamw_32bit: ['exp_avg.large', 'exp_avg_sq.large', 'exp_avg.small', 'exp_avg_sq.small'],
  paged_adamw_8bit: ['state1.large', 'absmax1.large', 'state2.large', 'absmax2.large', 'exp_avg.small', 'exp_avg_sq.small'],
  lion_pytorch: ['exp_avg.large', 'exp_avg.small'],
  lion_8bit: ['state1.large', 'absmax1.large', 'exp_avg.small'],
  paged_lion_8bit: ['state1.large', 'absmax1.large', 'exp_avg.small'],
  adafactor: ['exp_avg_sq_row.large', 'exp_avg_sq_col.large', 'exp_avg_sq.small'],
  sgd: [],
};

test.each(Object.keys(optimizers) as OptimizerName[])('%s goes downhill, and only where there is a gradient', async (name) => {
  const { backend, byName } = parameters();
  const before = backend.memory().currentOf.optimizer;
  const optimizer = createOptimizer(name, byName, options);
  expect([...optimizer.tensors().keys()]).toEqual(states[name]);
  const [large, small] = [byName.get('large')!, byName.get('small')!];
  const gradients = new Gradients();
  gradients.accumulate(large, fromArray(backend, new Float32Array(4096).fill(0.5), [2, 2048]));
  for (let i = 0; i < 3; i++) optimizer.step(gradients, 0.01, 1);
  expect(optimizer.steps).toBe(3);
  const values = await large.toFloat32();
  expect(Math.max(...values)).toBeLessThan(1);
  expect(Math.min(...values)).toBeGreaterThan(0.9);
  expect(new Set(await small.toFloat32())).toEqual(new Set([1]));
  optimizer.dispose();
  expect(backend.memory().currentOf.optimizer).toBe(before);
});

test('an unknown name is refused with a near one', () => {
  const { byName } = parameters();
  expect(() => createOptimizer('adamw_bnb_8bits' as OptimizerName, byName, options)).toThrow(/adamw_bnb_8bits/);
});
