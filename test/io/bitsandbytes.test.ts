import { describe, expect, test } from 'vitest';
import { groupQuantized } from '../../src/io/bitsandbytes.js';
import { encodeSafetensors, readSafetensors, type TensorToWrite } from '../../src/io/safetensors.js';
import { LowrankError } from '../../src/util/errors.js';

const shape = [4, 100];
const state = {
  quant_type: 'nf4',
  blocksize: 64,
  dtype: 'bfloat16',
  shape,
  nested_blocksize: 256,
  nested_dtype: 'float32',
  nested_offset: 0.5,
};

const tensor = (name: string, dtype: string, extents: readonly number[], data: Uint8Array): TensorToWrite => ({
  name,
  dtype,
  shape: extents,
  data: async () => data,
});
const text = (value: unknown) => new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));
const floats = (n: number, value = 1) => new Uint8Array(new Float32Array(n).fill(value).buffer);
const stateTensor = (value: unknown, suffix = 'quant_state.bitsandbytes__nf4') =>
  tensor(`w.weight.${suffix}`, 'U8', [text(value).length], text(value));

/** The parts of a matrix of 400 numbers, 7 blocks; `changes` replaces or (undefined) removes some. */
function parts(changes: Record<string, TensorToWrite | undefined> = {}): TensorToWrite[] {
  const all: Record<string, TensorToWrite | undefined> = {
    codes: tensor('w.weight', 'U8', [200, 1], new Uint8Array(200).fill(0x7f)),
    absmax: tensor('w.weight.absmax', 'U8', [7], new Uint8Array(7).fill(3)),
    map: tensor('w.weight.quant_map', 'F32', [16], floats(16, 0.25)),
    nested: tensor('w.weight.nested_absmax', 'F32', [1], floats(1, 2)),
    nestedMap: tensor('w.weight.nested_quant_map', 'F32', [256], floats(256, 0.75)),
    state: stateTensor(state),
    ...changes,
  };
  return Object.values(all).filter((part) => part !== undefined);
}

async function open(tensors: readonly TensorToWrite[]) {
  const chunks: Uint8Array[] = [];
  for await (const chunk of encodeSafetensors(tensors)) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  const read = async (offset: number, length: number) => new Uint8Array(bytes.subarray(offset, offset + length));
  return groupQuantized(await readSafetensors({ name: 'file', size: bytes.length, read, close: async () => {} }));
}

describe('a matrix in 4 bits', () => {
  test('becomes one tensor of its real shape', async () => {
    const { tensors } = await open([tensor('norm.weight', 'F32', [3], floats(3)), ...parts()]);
    expect([...tensors.keys()]).toEqual(['norm.weight', 'w.weight']);
    const weight = tensors.get('w.weight')!;
    expect(weight).toMatchObject({ dtype: 'NF4', shape, quantized: { kind: 'u4' } });
    // value · (nested value · nested absmax + offset)
    const numbers = new Float32Array((await weight.readAs('f32')).buffer);
    expect([...new Set(numbers)]).toEqual([0.25 * (0.75 * 2 + 0.5)]);
    expect(numbers.length).toBe(400);
  });

  test.each<[string, Record<string, TensorToWrite | undefined>, RegExp]>([
    ['without its codes', { codes: undefined }, /"w\.weight" is missing/],
    ['with too few codes', { codes: tensor('w.weight', 'U8', [199, 1], new Uint8Array(199)) }, /U8 \[199,1\].*200 elements/s],
    ['with codes of another dtype', { codes: tensor('w.weight', 'F32', [200, 1], floats(200)) }, /F32 \[200,1\]/],
    ['without absmax', { absmax: undefined }, /"w\.weight\.absmax" is missing/],
    ['with an absmax too many', { absmax: tensor('w.weight.absmax', 'U8', [8], new Uint8Array(8)) }, /U8 \[8\].*7 elements/s],
    ['without the map', { map: undefined }, /quant_map" is missing/],
    ['with a map of 15', { map: tensor('w.weight.quant_map', 'F32', [15], floats(15)) }, /F32 \[15\]/],
    ['without the scales of scales', { nested: undefined }, /nested_absmax" is missing/],
    ['with a short nested map', { nestedMap: tensor('w.weight.nested_quant_map', 'F32', [2], floats(2)) }, /256 elements/],
    ['with a state that is no JSON', { state: stateTensor('{"quant') }, /not valid JSON/],
    ['with a state that is a list', { state: stateTensor([1]) }, /not a JSON object/],
    ['with a large state', { state: stateTensor(' '.repeat(70_000)) }, /holds 70000 bytes/],
    ['with a block size of 0', { state: stateTensor({ ...state, blocksize: 0 }) }, /blocksize 0/],
    ['with a block size of 48', { state: stateTensor({ ...state, blocksize: 48 }) }, /blocksize 48/],
    ['with a huge shape', { state: stateTensor({ ...state, shape: [2 ** 40, 2 ** 40] }) }, /"w\.weight" is U8 \[200,1\]/],
    ['with a negative shape', { state: stateTensor({ ...state, shape: [-4, -100] }) }, /shape \[-4,-100\]/],
    ['with three sizes', { state: stateTensor({ ...state, shape: [4, 10, 10] }) }, /two sizes/],
    ['with a mean that is text', { state: stateTensor({ ...state, nested_offset: '0' }) }, /nested_offset "0"/],
    ['with a nested block size of 1', { state: stateTensor({ ...state, nested_blocksize: 1 }) }, /nested_blocksize 1/],
  ])('%s is refused', async (_, changes, message) => {
    const error = await open(parts(changes)).then(
      () => 'nothing was thrown',
      (thrown) => thrown,
    );
    expect(error).toBeInstanceOf(LowrankError);
    expect((error as LowrankError).message).toMatch(message);
    expect((error as LowrankError).mend).toBeTruthy();
  });
});

describe('a matrix in 8 bits', () => {
  const codes = tensor('w.weight', 'I8', [2, 3], Uint8Array.of(127, 0, 129, 1, 2, 3));
  const scales = tensor('w.SCB', 'F32', [2], new Uint8Array(Float32Array.of(127, 12.7).buffer));

  test('becomes one tensor', async () => {
    const { tensors } = await open([codes, scales, tensor('w.weight_format', 'U8', [], Uint8Array.of(0))]);
    expect([...tensors.keys()]).toEqual(['w.weight']);
    const numbers = new Float32Array((await tensors.get('w.weight')!.readAs('f32')).buffer);
    [127, 0, -127, 0.1, 0.2, 0.3].forEach((want, i) => {
      expect(numbers[i]).toBeCloseTo(want, 4);
    });
  });

  test.each([
    ['scales alone', [scales]],
    ['too few scales', [codes, tensor('w.SCB', 'F32', [1], floats(1))]],
    ['codes that are floats', [tensor('w.weight', 'F32', [2, 3], floats(6)), scales]],
    ['a format of a GPU', [codes, scales, tensor('w.weight_format', 'U8', [], Uint8Array.of(2))]],
  ])('%s is refused', async (_, tensors) => {
    await expect(open(tensors)).rejects.toThrow(/w\.(SCB|weight_format)/);
  });
});
