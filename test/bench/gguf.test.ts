import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { writeGguf } from '../../bench/gguf.js';
import { readGguf } from '../../src/io/gguf.js';
import { ggufConfig } from '../../src/io/gguf-config.js';
import { GgufMetadata } from '../../src/io/gguf-metadata.js';
import { localFolder, openFile } from '../../src/io/node.js';
import { encodeSafetensors, readSafetensors, type TensorToWrite } from '../../src/io/safetensors.js';
import { ggufLayouts } from '../../src/models/families.js';
import { f32ToBf16 } from '../../src/util/half.js';

const folder = mkdtempSync(join(tmpdir(), 'lowrank-gguf-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const config = {
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 5,
  max_position_embeddings: 16,
  rms_norm_eps: 0.5,
  rope_theta: 100,
};

const layer = 'model.layers.0';
const shapes: Readonly<Record<string, number[]>> = {
  'model.embed_tokens.weight': [5, 8],
  'model.norm.weight': [8],
  [`${layer}.input_layernorm.weight`]: [8],
  [`${layer}.self_attn.q_proj.weight`]: [8, 8],
  [`${layer}.self_attn.k_proj.weight`]: [4, 8],
  [`${layer}.mlp.down_proj.weight`]: [8, 12],
  'lm_head.weight': [5, 8],
};

/** Numbers that bf16 and f16 hold, different in every row. */
const valuesOf = (shape: readonly number[]) => Float32Array.from({ length: shape[0] * (shape[1] ?? 1) }, (_, i) => (i % 128) / 4);

test('a model as GGUF: names, config, types, rows interleaved by head', async () => {
  const tensors = Object.entries(shapes).map(([name, shape]): TensorToWrite => {
    const data = async () => new Uint8Array(f32ToBf16(valuesOf(shape)).buffer);
    return { name, dtype: 'BF16', shape, data };
  });
  await localFolder(folder).write('model.safetensors', encodeSafetensors(tensors));
  const stored = await readSafetensors(await openFile(join(folder, 'model.safetensors')));
  const path = join(folder, 'model.gguf');
  await writeGguf(path, stored.tensors.values(), config, 'BF16');
  await stored.close();

  const gguf = await readGguf(await openFile(path));
  const read = await ggufConfig(gguf, new GgufMetadata(path, gguf.metadata), ggufLayouts()[0]);
  const { rope_theta, ...sizes } = config;
  expect(read).toMatchObject({ ...sizes, rope_parameters: { rope_theta }, tie_word_embeddings: false });

  const rowsOf = async (name: string) => {
    const tensor = gguf.tensors.get(name)!;
    const bytes = (await gguf.file.read(tensor.offset, tensor.byteLength)).slice();
    const values = tensor.type.name === 'F32' ? new Float32Array(bytes.buffer) : new Uint16Array(bytes.buffer);
    const rows = tensor.shape.length === 1 ? 1 : tensor.shape[0];
    return {
      type: tensor.type.name,
      rows: Array.from({ length: rows }, (_, i) => [...values.subarray((i * values.length) / rows, ((i + 1) * values.length) / rows)]),
    };
  };
  const original = (name: string) => {
    const [rows, columns] = shapes[name];
    const values = f32ToBf16(valuesOf(shapes[name]));
    return Array.from({ length: rows }, (_, i) => [...values.subarray(i * columns, (i + 1) * columns)]);
  };
  const q = original(`${layer}.self_attn.q_proj.weight`);
  expect(await rowsOf('blk.0.attn_q.weight')).toEqual({ type: 'BF16', rows: [0, 2, 1, 3, 4, 6, 5, 7].map((row) => q[row]) });
  const k = original(`${layer}.self_attn.k_proj.weight`);
  expect((await rowsOf('blk.0.attn_k.weight')).rows).toEqual([0, 2, 1, 3].map((row) => k[row]));
  expect((await rowsOf('blk.0.ffn_down.weight')).rows).toEqual(original(`${layer}.mlp.down_proj.weight`));
  expect((await rowsOf('output.weight')).rows).toEqual(original('lm_head.weight'));
  expect(await rowsOf('blk.0.attn_norm.weight')).toEqual({ type: 'F32', rows: [[...valuesOf([8])]] });
  await gguf.file.close();
});
