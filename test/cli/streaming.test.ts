import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { Terminal } from '../../src/cli/console.js';
import { streamedSource, wantsStreaming } from '../../src/cli/streaming.js';
import type { Backend } from '../../src/core/backend.js';
import type { ModelSource } from '../../src/io/model-source.js';
import type { LoadOptions } from '../../src/models/load.js';
import { openModel } from '../../src/runs/node.js';
import { openBest, testNative } from '../helpers/native.js';
import { writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-streaming-'));
const bf16: LoadOptions = { precision: 'bf16' };
const unstopped = new AbortController().signal;
let backend: Backend;
let floats: ModelSource, halves: ModelSource;
beforeAll(async () => {
  backend = await openBest();
  floats = await openModel(await writeTinyModel(join(root, 'f32'), {}, 'F32'));
  halves = await openModel(await writeTinyModel(join(root, 'bf16'), {}, 'BF16'));
});
afterAll(async () => {
  await floats.checkpoint.close();
  await halves.checkpoint.close();
  await backend.close();
  rmSync(root, { recursive: true, force: true });
});

test('a base is streamed by itself where it takes more than half of the memory and lies as it is wanted', () => {
  const short = { mode: 'auto', limit: 1000 } as const;
  expect(wantsStreaming(halves, short, bf16)).toBe(true);
  expect(wantsStreaming(halves, { mode: 'auto', limit: 1e9 }, bf16)).toBe(false);
  expect(wantsStreaming(halves, short, { precision: 'fp32' })).toBe(false);
  expect(wantsStreaming(floats, short, bf16)).toBe(false);
  expect(wantsStreaming(floats, short, { precision: 'fp32' })).toBe(true);
  // Quantising writes a file, whatever the weights were.
  expect(wantsStreaming(floats, short, { ...bf16, quantization: { kind: 'nf4', blockSize: 64, double: true } })).toBe(true);
});

testNative('a base that must be streamed and would have to be converted is refused', async () => {
  const always = { mode: true } as const;
  const streamed = streamedSource(new Terminal(), floats, backend, always, bf16, unstopped);
  await expect(streamed).rejects.toThrow(/must be converted.*stored in safetensors as bf16/s);
  expect(await streamedSource(new Terminal(), floats, backend, always, { precision: 'fp32' }, unstopped)).toBe(floats);
});

testNative('quantising into the cache gives up when it is told to, and leaves nothing behind', async () => {
  vi.stubEnv('HF_HUB_CACHE', join(root, 'cache'));
  const options: LoadOptions = { ...bf16, quantization: { kind: 'nf4', blockSize: 64, double: true } };
  const controller = new AbortController();
  const terminal = new Terminal();
  let turns = 0;
  terminal.bar = () => void (++turns === 3 && controller.abort());
  const streamed = (signal: AbortSignal) => streamedSource(terminal, halves, backend, { mode: true }, options, signal);
  await expect(streamed(controller.signal)).rejects.toMatchObject({ name: 'AbortError' });
  expect(turns).toBe(3);
  expect(readdirSync(join(root, 'cache', 'lowrank', 'quantized'))).toEqual([]);
  const made = await streamed(unstopped);
  expect(readdirSync(join(root, 'cache', 'lowrank', 'quantized'))).toEqual([basename(made!.name)]);
  await made!.checkpoint.close();
  vi.unstubAllEnvs();
});
