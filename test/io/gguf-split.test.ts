import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openModelFromFiles } from '../../src/io/browser.js';
import { ggufNames, partsOf } from '../../src/io/gguf-split.js';
import { ggufLayouts } from '../../src/models/families.js';
import { openModel, openModelTexts } from '../../src/runs/node.js';
import { tinyLlama } from './gguf-builder.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-split-'));
const folder = join(root, 'split');
afterAll(() => rmSync(root, { recursive: true }));

const matrices = ['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'].map((name) => `blk.0.${name}.weight`);
const vectors = ['output_norm.weight', 'blk.0.attn_norm.weight', 'blk.0.ffn_norm.weight'];
const all = ['token_embd.weight', ...matrices, ...vectors];
const held = [['token_embd.weight', ...matrices.slice(0, 2)], matrices.slice(2), vectors];
const names = partsOf('tiny-00001-of-00003.gguf');

/** A part with so many numbers, each another than all others. */
function part(i: number, changes: Record<string, number | undefined> = {}, tensors = held[i]): Uint8Array {
  const split = { 'split.no': i, 'split.count': 3, 'split.tensors.count': all.length };
  const bytes = tinyLlama(
    { ...split, ...changes },
    all.filter((name) => !tensors.includes(name)),
  );
  const numbers = tensors.reduce((sum, name) => sum + (name === 'token_embd.weight' ? 32 : matrices.includes(name) ? 64 : 8), 0);
  const values = Float32Array.from({ length: numbers }, (_, n) => 1000 * i + n);
  bytes.set(new Uint8Array(values.buffer), bytes.length - 4 * numbers);
  return bytes;
}

beforeAll(() => {
  mkdirSync(folder);
  names.forEach((name, i) => {
    writeFileSync(join(folder, name), part(i));
  });
});

/** A folder with the parts, some of them changed or left out. */
function changed(name: string, changes: Record<number, Uint8Array | undefined>): string {
  const dir = join(root, name);
  mkdirSync(dir);
  names.forEach((file, i) => {
    if (!(i in changes)) copyFileSync(join(folder, file), join(dir, file));
    else if (changes[i]) writeFileSync(join(dir, file), changes[i]);
  });
  return dir;
}

test.each([
  ['its folder', () => folder],
  ['the first part', () => join(folder, names[0])],
  ['the last part', () => join(folder, names[2])],
])('a split model is opened by %s', async (_, path) => {
  const source = await openModel(path());
  const { tensors } = source.checkpoint;
  expect(tensors.size).toBe(all.length);
  const first = async (name: string) => new Float32Array((await tensors.get(name)!.readAs('f32')).slice().buffer)[0];
  expect(await first('model.embed_tokens.weight')).toBe(0);
  expect(await first('model.layers.0.self_attn.v_proj.weight')).toBe(1000);
  expect(await first('model.layers.0.mlp.down_proj.weight')).toBe(1000 + 4 * 64);
  expect(await first('model.norm.weight')).toBe(2000);
  expect(source.config).toMatchObject({ hidden_size: 8, num_hidden_layers: 1 });
  await source.checkpoint.close();
});

test('whichever part it is opened by, it is the same model', async () => {
  const identities = new Set<string>();
  for (const path of [folder, ...names.map((name) => join(folder, name))]) {
    const source = await openModel(path);
    identities.add(source.identity);
    await source.checkpoint.close();
  }
  expect(identities.size).toBe(1);
  expect(await openModelTexts(folder)).toMatchObject({ config: { model_type: 'llama', hidden_size: 8 } });
});

test('a page opens the parts that were chosen', async () => {
  const files = names.map((name, i) => new File([part(i) as BlobPart], name));
  const source = await openModelFromFiles(files, { layouts: ggufLayouts() });
  expect(source.checkpoint.tensors.size).toBe(all.length);
  await expect(openModelFromFiles(files.slice(1), { layouts: ggufLayouts() })).rejects.toThrow(/missing: tiny-00001-of-00003\.gguf\n/);
});

test.each<[string, Record<number, Uint8Array | undefined>, RegExp]>([
  [
    'missing parts',
    { 0: undefined, 1: undefined },
    /parts of the model are missing: tiny-00001-of-00003.gguf, tiny-00002-of-00003.gguf\n.*3 parts/s,
  ],
  ['part twice', { 2: part(1) }, /tiny-00003-of-00003.gguf: metadata "split.no": is 1\n.*2, as its name says/s],
  ['part of a set of four', { 1: part(1, { 'split.count': 4 }) }, /00002-of-00003.gguf: metadata "split.count": is 4\n.*3, as its name/s],
  ['part that is a whole file', { 1: part(1, { 'split.no': undefined }) }, /00002-of-00003.gguf: metadata "split.no": is missing/],
  [
    'tensor twice',
    { 2: part(2, {}, [...vectors, matrices[0]]) },
    /00003-of-00003.gguf: tensor "blk.0.attn_q.weight": is in an earlier part/,
  ],
  ['tensor too few', { 2: part(2, {}, vectors.slice(1)) }, /"split.tensors.count": is 11, and the parts hold 10 tensors/],
  ['part that is cut', { 2: part(2).subarray(0, -8) }, /00003-of-00003.gguf: tensor .*: ends at byte/],
])('refused: a %s', async (name, changes, message) => {
  await expect(openModel(changed(name, changes))).rejects.toThrow(message);
});

test('a folder of several models asks for one', async () => {
  const dir = changed('several', {});
  writeFileSync(join(dir, 'other.gguf'), tinyLlama());
  await expect(openModel(dir)).rejects.toThrow(/holds several .gguf files\n.*choose other.gguf, tiny-00001-of-00003.gguf/s);
  const source = await openModel(join(dir, 'other.gguf'));
  await source.checkpoint.close();
});

test('names of parts', () => {
  expect(ggufNames(['b-00002-of-00002.gguf', 'a.gguf', 'b-00001-of-00002.gguf', 'c.txt'])).toEqual(['b-00001-of-00002.gguf', 'a.gguf']);
  expect(partsOf('x-00004-of-00003.gguf')).toEqual(['x-00004-of-00003.gguf']);
  expect(partsOf('x-00000-of-00003.gguf')).toEqual(['x-00000-of-00003.gguf']);
});
