import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { Backend } from '../../src/core/backend.js';
import type { ModelSource } from '../../src/io/model-source.js';
import type { LoadOptions } from '../../src/models/load.js';
import type { SessionEvent } from '../../src/runs/events.js';
import { nodeHost, openModel } from '../../src/runs/node.js';
import { streamedSource, wantsStreaming } from '../../src/runs/streaming.js';
import { openBest, testNative } from '../helpers/native.js';
import { writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-streaming-'));
const bf16: LoadOptions = { precision: 'bf16' };
const context = { host: nodeHost };
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
  const free = 1e9;
  expect(wantsStreaming(halves, short, bf16, free)).toBe(true);
  expect(wantsStreaming(halves, { mode: 'auto', limit: 1e9 }, bf16, 0)).toBe(false);
  expect(wantsStreaming(halves, short, { precision: 'fp32' }, free)).toBe(false);
  expect(wantsStreaming(floats, short, bf16, free)).toBe(false);
  expect(wantsStreaming(floats, short, { precision: 'fp32' }, free)).toBe(true);
  // Quantising writes a file, whatever the weights were.
  expect(wantsStreaming(floats, short, { ...bf16, quantization: { kind: 'nf4', blockSize: 64, double: true } }, free)).toBe(true);
  // Without a limit what the machine has free counts.
  expect(wantsStreaming(halves, { mode: 'auto' }, bf16, 1000)).toBe(true);
  expect(wantsStreaming(halves, { mode: 'auto' }, bf16, 1e9)).toBe(false);
});

testNative('a base that must be streamed and would have to be converted is refused', async () => {
  const always = { mode: true } as const;
  const streamed = streamedSource(floats, backend, always, bf16, context);
  await expect(streamed).rejects.toThrow(/must be converted.*stored in safetensors as bf16/s);
  expect(await streamedSource(floats, backend, always, { precision: 'fp32' }, context)).toBe(floats);
});

testNative('quantising into the cache gives up when it is told to, and leaves nothing behind', async () => {
  vi.stubEnv('HF_HUB_CACHE', join(root, 'cache'));
  const options: LoadOptions = { ...bf16, quantization: { kind: 'nf4', blockSize: 64, double: true } };
  const controller = new AbortController();
  const events: SessionEvent[] = [];
  const onEvent = (event: SessionEvent) => void (events.push(event) === 4 && controller.abort());
  const streamed = (more: object) => streamedSource(halves, backend, { mode: true }, options, { ...context, ...more });
  await expect(streamed({ onEvent, signal: controller.signal })).rejects.toMatchObject({ name: 'AbortError' });
  // It is said before the first tensor, and with each.
  expect(events.map((event) => event.type === 'quantizing' && event.done)).toEqual([0, 1, 2, 3]);
  expect(readdirSync(join(root, 'cache', 'lowrank', 'quantized'))).toEqual([]);
  const made = await streamed({});
  expect(readdirSync(join(root, 'cache', 'lowrank', 'quantized'))).toEqual([basename(made!.name)]);
  await made!.checkpoint.close();
  vi.unstubAllEnvs();
});
