import { readFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { blobSource, openUrl } from '../../src/io/browser.js';
import { openGguf } from '../../src/io/gguf-model.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { openModelFromFiles } from '../../src/models/chosen-files.js';
import { ggufLayouts } from '../../src/models/families.js';
import { commit, startHub } from './hub-server.js';

const golden = (path: string) => new Uint8Array(readFileSync(new URL(`../golden/${path}`, import.meta.url)));
const gguf = golden('gguf/byte-level.gguf');
const weights = golden('models/grouped-tied/model.safetensors');

let hub: Awaited<ReturnType<typeof startHub>> | undefined;
afterEach(async () => {
  await hub?.close();
  hub = undefined;
});

async function urlOf(fault = {}) {
  hub = await startHub({ 'owner/model': { 'a.gguf': gguf, 'model.safetensors': weights } }, fault);
  return `${hub.endpoint}/owner/model/resolve/${commit}/`;
}

test('a Blob is read in pieces, and not beyond its end', async () => {
  const source = blobSource(new File([weights], 'model.safetensors'));
  expect(source).toMatchObject({ name: 'model.safetensors', size: weights.length });
  expect(await source.read(5, 7)).toEqual(weights.slice(5, 12));
  expect(await source.read(weights.length, 0)).toEqual(new Uint8Array());
  await expect(source.read(weights.length - 3, 4)).rejects.toThrow(`ends after ${weights.length} bytes`);
});

test('a model out of chosen files: a .gguf file, or a folder’s', async () => {
  const fromGguf = await openModelFromFiles([new File([gguf], 'x.gguf')]);
  expect(fromGguf).toMatchObject({ name: 'x.gguf', config: { model_type: 'llama' } });
  const config = golden('models/grouped-tied/config.json');
  const tokenizer = JSON.stringify(fromGguf.tokenizer.tokenizerJson);
  const files = [new File([config], 'config.json'), new File([tokenizer], 'tokenizer.json'), new File([weights], 'model.safetensors')];
  const source = await openModelFromFiles(files);
  expect(source.tokenizer.tokenizerJson).toEqual(fromGguf.tokenizer.tokenizerJson);
  expect(source.checkpoint.tensors.has('model.norm.weight')).toBe(true);
  await expect(openModelFromFiles(files.slice(1))).rejects.toThrow('there is no config.json');
  await expect(openModelFromFiles(files.slice(0, 2))).rejects.toThrow('neither model.safetensors nor model.safetensors.index.json');
});

test('equal weights have equal identities, changed ones another', async () => {
  const changed = gguf.slice();
  changed[changed.length - 1] ^= 1;
  const identity = async (bytes: Uint8Array<ArrayBuffer>) => (await openModelFromFiles([new File([bytes], 'x.gguf')])).identity;
  expect(await identity(gguf)).toMatch(/^sha256:[0-9a-f]{64}$/);
  expect(await identity(gguf)).toBe(await identity(gguf.slice()));
  expect(await identity(gguf)).not.toBe(await identity(changed));
});

test('over HTTP only what is asked for is fetched', async () => {
  const url = await urlOf();
  const file = await openUrl(`${url}model.safetensors`);
  expect(file.size).toBe(weights.length);
  expect(await file.read(100, 11)).toEqual(weights.slice(100, 111));
  const checkpoint = await readSafetensors(file);
  const local = await readSafetensors(blobSource(new Blob([weights])));
  expect(await checkpoint.tensors.get('model.norm.weight')!.read()).toEqual(await local.tensors.get('model.norm.weight')!.read());
  expect((await openGguf(await openUrl(`${url}a.gguf`), ggufLayouts())).config.model_type).toBe('llama');
  await expect(file.read(weights.length, 1)).rejects.toThrow(`ends after ${weights.length} bytes`);
});

test('servers without ranges, without the file, or without an answer', async () => {
  const url = await urlOf({ noRanges: true });
  await expect(openUrl(`${url}a.gguf`)).rejects.toThrow('does not serve parts');
  await expect(openUrl(`${url}b.gguf`)).rejects.toThrow('status 404');
  await expect(openUrl('http://127.0.0.1:9/x')).rejects.toThrow(/cannot be fetched[\s\S]*CORS/);
});
