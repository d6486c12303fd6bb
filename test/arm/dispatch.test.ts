import { expect, test } from 'vitest';
import { CpuBackend } from '../../src/backends/cpu/index.js';
import { addonOn, type Processor } from './emulated.js';

const processors: readonly [Processor, string[], string][] = [
  ['cortex-a72', ['neon'], 'NEON'],
  ['max', ['neon', 'neonbf16'], 'NEON BF16'],
];

test.each(processors)('cpu on %s is the richest of %j', async (processor, sets, label) => {
  const addon = addonOn(processor);
  expect(addon.instructionSets()).toEqual(sets);
  const backend = new CpuBackend(addon, 1, '');
  expect(backend.description).toBe(`cpu: ${label}, 1 thread`);
  await backend.close();
});

test('cpu without products of bf16 refuses their set', () => {
  const addon = addonOn('cortex-a72');
  expect(() => new CpuBackend(addon, 1, 'neonbf16')).toThrow('this machine has no NEON BF16');
});
