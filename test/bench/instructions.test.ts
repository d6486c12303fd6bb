import { expect, test } from 'vitest';
import { holdTo } from '../../bench/instructions.js';

const here = ['generic', 'avx2', 'avx512', 'avx512bf16'];

test('a set holds ours and the peers', () => {
  const environment: NodeJS.ProcessEnv = {};
  expect(holdTo('avx2', here, environment)).toMatchObject({ name: 'avx2', bf16: false, llama: ['haswell'] });
  expect(environment).toEqual({
    LOWRANK_CPU: 'avx2',
    ONEDNN_MAX_CPU_ISA: 'AVX2',
    ATEN_CPU_CAPABILITY: 'avx2',
    MKL_ENABLE_INSTRUCTIONS: 'AVX2',
  });
});

test('without one it is LOWRANK_CPU, else the best of the machine', () => {
  expect(holdTo(undefined, here, { LOWRANK_CPU: 'avx512' }).name).toBe('avx512');
  const environment: NodeJS.ProcessEnv = {};
  expect(holdTo(undefined, here, environment)).toMatchObject({ name: 'avx512bf16', bf16: true });
  expect(environment.LOWRANK_CPU).toBe('avx512bf16');
  // A set that only Arm has: the peers take what they like.
  expect(holdTo(undefined, ['generic', 'neon'], {})).toEqual({ name: 'neon', environment: {}, bf16: false });
});

test('a set that the machine lacks is an error with those that it has', () => {
  const environment: NodeJS.ProcessEnv = {};
  expect(() => holdTo('amx', here, environment)).toThrow(/--isa: this machine has no amx\n.*generic, avx2, avx512, avx512bf16/);
  expect(() => holdTo('sse9', here, environment)).toThrow('--isa: there is no instruction set "sse9"');
  expect(() => holdTo(undefined, here, { LOWRANK_CPU: 'amx' })).toThrow('LOWRANK_CPU: this machine has no amx');
  expect(environment).toEqual({});
});
