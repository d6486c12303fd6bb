import { afterEach, expect, test, vi } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import { fusedOps } from '../../src/cli/doctor.js';
import { composedOps, requireOps } from '../../src/core/capabilities.js';
import { type OpName, opDeclarations } from '../../src/core/ops.table.js';
import { fromArray } from '../../src/core/tensor.js';
import { Quantizer } from '../../src/models/quantize.js';
import { createOptimizer } from '../../src/optim/optimizer.js';

afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

test('what a backend lacks of the fused ops', () => {
  expect(composedOps(new ReferenceBackend())).toEqual([]);
  expect(composedOps(new ReferenceBackend({ without: ['attention', 'gated', 'lion'] }))).toEqual(['gated', 'attention']);
});

test('the doctor says which fused ops are composed', () => {
  expect(fusedOps(new ReferenceBackend()).value).toBe('all');
  expect(fusedOps(new ReferenceBackend({ without: ['loraLinear'] })).value).toContain('all but loraLinear');
});

test('DEBUG=1 says once for each fused op that it is composed, and on which backend', async () => {
  vi.stubEnv('DEBUG', '1');
  vi.resetModules();
  const { gated } = await import('../../src/ops/gated.js');
  const printed = vi.spyOn(console, 'error').mockImplementation(() => {});
  const run = (without: OpName[]) => {
    const backend = new ReferenceBackend({ without });
    const x = fromArray(backend, Float32Array.of(1, 2), [1, 2]);
    for (let i = 0; i < 3; i++) gated(x, x, 'silu');
    return printed.mock.calls.splice(0).map(([line]) => String(line));
  };
  expect(run([])).toEqual([]);
  expect(run(['gatedBackward'])).toEqual([]);
  expect(run(['gated'])).toEqual([expect.stringMatching(/reference has no gated: .*composed/)]);
  expect(run(['gated'])).toHaveLength(1);
});

test('an op that every backend has cannot be left out', () => {
  expect(() => new ReferenceBackend({ without: ['matmul'] })).toThrow(/every backend has the op "matmul"/);
});

const group = (name: string) => (Object.keys(opDeclarations) as OpName[]).filter((op) => opDeclarations[op].group === name);
const settings = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0 };

test.each([
  [
    'adamw_bnb_8bit',
    'optimizers of 8 bits',
    /^optimizer adamw_bnb_8bit: the backend reference lacks ops of "optimizers of 8 bits": adamw8bit\n/,
  ],
  ['paged_lion_8bit', 'optimizers of 8 bits', /: lion8bit\n.*choose adamw_torch/],
  ['lion_8bit', 'optimizers', /"optimizers": lion\n/],
  ['adafactor', 'optimizers', /: adafactor\n/],
  ['sgd', 'optimizers', /: sgd\n/],
] as const)('%s is refused on a backend without %s, before anything is allocated', (name, lacking, message) => {
  const backend = new ReferenceBackend({ without: group(lacking) });
  const parameters = new Map([['w', fromArray(backend, new Float32Array(8), [2, 4], 'f32', 'adapters')]]);
  expect(() => createOptimizer(name, parameters, settings)).toThrow(message);
  expect(backend.memory().peakOf.optimizer).toBe(0);
  createOptimizer('adamw_torch', parameters, settings).dispose();
});

test('a quantisation is refused on a backend that cannot make its codes', () => {
  const without = (...ops: OpName[]) => new ReferenceBackend({ without: ops });
  const config = { kind: 'nf4', blockSize: 64, double: false } as const;
  const double = { ...config, double: true };
  const refused = /^quantization nf4: .* reference lacks ops of "quantizing": quantize4bit, quantize8bit\n.*lowrank quantize --device cpu/;
  const lacking = without(...group('quantizing'));
  expect(() => new Quantizer(lacking, double)).toThrow(refused);
  expect(lacking.memory().peak).toBe(0);
  expect(() => new Quantizer(without('quantize8bit'), double)).toThrow(/: quantize8bit\n/);
  new Quantizer(without('quantize8bit', 'quantizeRows'), config).dispose();
  expect(() => new Quantizer(without('quantizeRows'), { ...config, kind: 'int8' })).toThrow(/quantization int8.*: quantizeRows\n/);
});

test('what is needed and there is not an error', () => {
  expect(() => requireOps(new ReferenceBackend(), ['dequantize', 'adamw'], 'test', 'nothing')).not.toThrow();
});
