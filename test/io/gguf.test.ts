import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { Tokenizer } from '../../src/data/tokenizer.js';
import { blobSource } from '../../src/io/browser.js';
import { openGguf } from '../../src/io/gguf-model.js';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { ggufLayouts } from '../../src/models/families.js';
import { blockTypes } from '../../src/quant/gguf-blocks.js';
import { openModel } from '../../src/runs/node.js';
import { f32ToBf16, f32ToF16 } from '../../src/util/half.js';
import { tinyLlama } from './gguf-builder.js';

const golden = (name: string) => fileURLToPath(new URL(`../golden/gguf/${name}`, import.meta.url));

/** What tools/golden/gguf_blocks.py writes for each file. */
interface Expected {
  config: Record<string, unknown>;
  special: Record<string, string>;
  encodings: { text: string; ids: number[]; special: number[]; decoded: string }[];
}

describe('blocks decode bit for bit as the gguf package decodes them', async () => {
  const checkpoint = await readSafetensors(await openFile(golden('blocks.safetensors')));
  const coded = [...blockTypes.values()].filter((type) => type.decode);
  test.each(coded.map((type) => [type.name, type] as const))('%s', async (name, type) => {
    const bytes = await checkpoint.tensors.get(`${name}.bytes`)!.read();
    const expected = await checkpoint.tensors.get(`${name}.values`)!.readAs('f32');
    const values = new Float32Array((bytes.length / type.bytes) * type.elements);
    type.decode!(bytes, values);
    expect(Buffer.compare(new Uint8Array(values.buffer), expected)).toBe(0);
  });
});

describe.each(['byte-level', 'sentencepiece'])('%s.gguf', async (name) => {
  const source = await openModel(golden(`${name}.gguf`));
  const expected: Expected = JSON.parse(readFileSync(golden(`${name}.json`), 'utf8'));
  const theirs = await readSafetensors(await openFile(golden(`${name}.safetensors`)));

  test('weights equal those that transformers loads', async () => {
    expect([...source.checkpoint.tensors.keys()].sort()).toEqual([...theirs.tensors.keys()].sort());
    for (const [key, tensor] of source.checkpoint.tensors) {
      const wanted = theirs.tensors.get(key)!;
      expect(tensor.shape, key).toEqual(wanted.shape);
      const bytes = await wanted.readAs('f32');
      expect(Buffer.compare(await tensor.readAs('f32'), bytes), key).toBe(0);
      const values = new Float32Array(bytes.slice().buffer);
      for (const [half, rounded] of [
        ['bf16', f32ToBf16(values)],
        ['f16', f32ToF16(values)],
      ] as const) {
        expect(Buffer.compare(await tensor.readAs(half), new Uint8Array(rounded.buffer)), `${key} as ${half}`).toBe(0);
      }
    }
  });

  test('only tensors stored plainly and in order can be used in place', async () => {
    for (const tensor of source.checkpoint.tensors.values()) {
      const plain = ['F32', 'F16', 'BF16'].includes(tensor.dtype) && !/[qk]_proj/.test(tensor.name);
      expect(tensor.inPlace, tensor.name).toBe(plain);
      if (plain) expect(Buffer.compare(await tensor.read(), await tensor.readAs(tensor.dtype.toLowerCase() as 'f32'))).toBe(0);
    }
  });

  test('config.json', () => {
    const present = Object.entries(expected.config).filter(([, value]) => value !== null);
    expect(source.config).toMatchObject(Object.fromEntries(present));
    expect(source.config).toMatchObject({
      model_type: 'llama',
      rms_norm_eps: 1e-5,
      rope_parameters: { rope_type: 'default', rope_theta: 50000 },
    });
  });

  test('token ids, decoded text and special tokens', () => {
    const tokenizer = new Tokenizer(source.tokenizer);
    expect(tokenizer.specialTokens).toEqual(expected.special);
    for (const { text, ids, special, decoded } of expected.encodings) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.encode(text, { addSpecialTokens: true }), JSON.stringify(text)).toEqual(special);
      expect(tokenizer.decode(ids)).toBe(decoded);
    }
    expect(tokenizer.chatTemplate?.includes('<|im_start|>')).toBe(name === 'byte-level' ? true : undefined);
  });
});

describe('rotary scaling', () => {
  const theta = 500000;
  /** The divisors that llama.cpp's converter writes for Llama 3.1 and later. */
  const divisors = (factor: number, headDim: number) =>
    Array.from({ length: headDim / 2 }, (_, i) => {
      const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim);
      if (wavelength < 8192 / 4) return 1;
      if (wavelength > 8192) return factor;
      const smooth = (8192 / wavelength - 1) / 3;
      return 1 / ((1 - smooth) / factor + smooth);
    });
  const open = (changes: Parameters<typeof tinyLlama>[0], tensor?: number[]) => {
    const bytes = tinyLlama(
      { 'llama.attention.key_length': 16, 'llama.rope.freq_base': theta, ...changes },
      [],
      tensor && ['rope_freqs.weight'],
    );
    // The tensor is the last one.
    if (tensor) bytes.set(new Uint8Array(new Float32Array(tensor).buffer), bytes.length - 32);
    return openGguf(blobSource(new Blob([bytes as BlobPart])), ggufLayouts());
  };

  test('Llama 3’s out of its divisors', async () => {
    const { config, checkpoint } = await open({}, divisors(32, 16));
    expect(config.rope_parameters).toEqual({
      rope_type: 'llama3',
      rope_theta: theta,
      factor: 32,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    });
    expect([...checkpoint.tensors.keys()].filter((name) => name.includes('rope'))).toEqual([]);
    expect((await open({}, Array(8).fill(1))).config.rope_parameters).toEqual({ rope_type: 'default', rope_theta: theta });
    await expect(open({}, [1, 1, 1, 1, 1, 2, 3, 4])).rejects.toThrow('not a scaling of Llama 3');
  });

  test('linear and yarn out of the metadata', async () => {
    const scaling = (type: string, more = {}) => open({ 'llama.rope.scaling.type': type, 'llama.rope.scaling.factor': 2.5, ...more });
    expect((await scaling('none')).config.rope_parameters).toEqual({ rope_type: 'default', rope_theta: theta });
    expect((await scaling('linear')).config.rope_parameters).toEqual({ rope_type: 'linear', rope_theta: theta, factor: 2.5 });
    const original = { 'llama.rope.scaling.original_context_length': 8 };
    const yarn = { rope_type: 'yarn', rope_theta: theta, factor: 2.5, original_max_position_embeddings: 8 };
    expect((await scaling('yarn', original)).config.rope_parameters).toEqual(yarn);
  });
});
