import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { beginningOf } from '../../src/io/node/process.js';
import { localFolder, openCheckpoint, openFile, writeChunks, writeText } from '../../src/io/node.js';
import type { TensorToWrite } from '../../src/io/safetensors.js';
import { writeCheckpoint } from '../../src/io/safetensors-shards.js';
import { openModel } from '../../src/runs/node.js';
import { LowrankError } from '../../src/util/errors.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowrank-files-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

async function* chunks(...texts: (string | Error)[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) {
    if (text instanceof Error) throw text;
    yield new TextEncoder().encode(text);
  }
}

test('a file appears with its last chunk, in folders made for it', async () => {
  const path = join(dir, 'a/b/file');
  async function* watched() {
    yield* chunks('one ');
    expect(existsSync(path)).toBe(false);
    yield* chunks('two');
  }
  await writeChunks(path, watched());
  expect(readFileSync(path, 'utf8')).toBe('one two');
  await writeText(path, 'three ü');
  expect(readFileSync(path, 'utf8')).toBe('three ü');
  expect(readdirSync(join(dir, 'a/b'))).toEqual(['file']);
});

test('a write that fails leaves the old file and nothing else', async () => {
  const path = join(dir, 'file');
  await writeText(path, 'old');
  const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' });
  const error = await writeChunks(path, chunks('new', full)).catch((thrown) => thrown);
  expect(error).toBeInstanceOf(LowrankError);
  expect(error.message).toBe(`${path}: no space left on device\n  to mend: make room on the disk, or choose another folder`);
  await expect(writeChunks(path, chunks('new', new Error('a bug')))).rejects.toThrow('a bug');
  expect(readFileSync(path, 'utf8')).toBe('old');
  expect(readdirSync(dir)).toEqual(['file']);
  await expect(writeText(join(path, 'below'), '')).rejects.toThrow(/choose a path whose parents are folders|exist/);
});

const host = hostname().replace(/[^\w-]/g, '_');
const tag = (pid: number | undefined, began: string | undefined) => `${pid}-${began ?? ''}-0@${host}`;

test('a new folder takes away what a dead process left of it, and nothing of a living one', async () => {
  const folder = localFolder(dir);
  const dead = tag(spawnSync(process.execPath, ['-e', '']).pid, '1');
  const living = tag(process.ppid, await beginningOf(process.ppid));
  for (const name of [`.model.${dead}.tmp`, `.model.${dead}.old`, `.other.${dead}.tmp`, `.model.${living}.tmp`]) {
    await writeText(join(dir, name, 'part'), 'x');
  }
  await folder.create('model', (inner) => inner.writeText('whole', 'y'));
  expect(readdirSync(dir).sort()).toEqual([`.model.${living}.tmp`, `.other.${dead}.tmp`, 'model'].sort());
});

test('a lock takes away what dead processes left under way, and nothing else', async () => {
  const folder = localFolder(dir);
  const dead = spawnSync(process.execPath, ['-e', '']).pid;
  const living = tag(process.ppid, await beginningOf(process.ppid));
  const gone = [`.checkpoint-3.${tag(dead, '1')}.tmp`, `.checkpoint-3.${tag(dead, '1')}.old`, `.result.${tag(dead, undefined)}.tmp`];
  // One whose number another process has by now, where the system tells them apart; and paged memory that had not lost its name.
  if (process.platform === 'linux') gone.push(`.result.${tag(process.ppid, '1')}.tmp`);
  const stay = [
    ...[
      `.result.${living}.tmp`,
      `.result.${dead}-1-0@elsewhere.tmp`,
      '.report.2023.old',
      `.notes.${dead}.tmp`,
      `result.${tag(dead, '1')}.tmp`,
    ],
    '.paged-1234567',
  ];
  for (const name of [...gone, ...stay]) await writeText(join(dir, name, 'part'), 'x');
  for (const name of ['.paged-aB3dEf', '.notes', `.trainer_log.jsonl.${tag(dead, '1')}.tmp`]) writeFileSync(join(dir, name), 'x');
  let during: string[] = [];
  await folder.create('busy', async (inner) => {
    await inner.writeText('part', 'x');
    const unlock = await folder.lock();
    during = readdirSync(dir);
    await unlock();
  });
  // What this process itself has under way is not left.
  expect(during.filter((name) => name.startsWith('.busy.'))).toHaveLength(1);
  expect(readdirSync(dir).sort()).toEqual([...stay, '.notes', 'busy'].sort());
});

test('a folder is gone in one step, and comes back where what was to take its place does not', async () => {
  const folder = localFolder(dir);
  await folder.create('model', (inner) => inner.writeText('whole', 'old'));
  const failing = folder.create('model', async (inner) => {
    await inner.writeText('whole', 'new');
    rmSync(inner.path, { recursive: true });
  });
  await expect(failing).rejects.toThrow(/no such file/);
  expect(readFileSync(join(dir, 'model', 'whole'), 'utf8')).toBe('old');
  expect(readdirSync(dir)).toEqual(['model']);
});

test('published files appear together in place of the old ones, or not at all', async () => {
  const folder = localFolder(join(dir, 'result'));
  const read = () => Object.fromEntries(readdirSync(folder.path).map((name) => [name, readFileSync(join(folder.path, name), 'utf8')]));
  const publish = (text: string, names: string[], failure?: Error) =>
    folder.publish('key', /^part/, async (inner) => {
      for (const name of names) await inner.writeText(name, text);
      if (failure) throw failure;
    });
  await publish('one', ['part-1', 'part-2', 'key']);
  await folder.writeText('mine', 'kept');
  const first = { key: 'one', 'part-1': 'one', 'part-2': 'one', mine: 'kept' };
  expect(read()).toEqual(first);
  await expect(publish('two', ['part-1', 'key'], new Error('a bug'))).rejects.toThrow('a bug');
  expect(read()).toEqual(first);
  await publish('two', ['part-1', 'key']);
  expect(read()).toEqual({ key: 'two', 'part-1': 'two', mine: 'kept' });
});

test('published folders replace folders, and a file that a folder stands in the way of is found before anything is gone', async () => {
  const folder = localFolder(join(dir, 'result'));
  const publish = (text: string) =>
    folder.publish('key', /^(part|templates)$/, async (inner) => {
      for (const name of ['key', 'card', 'templates/one']) await inner.writeText(name, text);
    });
  await publish('first');
  await publish('second');
  expect(readFileSync(join(folder.path, 'templates', 'one'), 'utf8')).toBe('second');
  rmSync(join(folder.path, 'card'));
  await folder.writeText('card/mine', 'x');
  await expect(publish('third')).rejects.toThrow(/card: is a folder[\s\S]*move it away/);
  expect(['key', 'templates/one', 'card/mine'].map((name) => readFileSync(join(folder.path, name), 'utf8'))).toEqual([
    'second',
    'second',
    'x',
  ]);
  expect(readdirSync(folder.path).sort()).toEqual(['card', 'key', 'templates']);
});

test('two writers of one path: one of them wins whole', async () => {
  const path = join(dir, 'file');
  const texts = ['a'.repeat(100_000), 'b'.repeat(200_000)];
  await Promise.all(texts.map((text) => writeText(path, text)));
  expect(texts).toContain(readFileSync(path, 'utf8'));
  expect(readdirSync(dir)).toEqual(['file']);
});

test('reading what is not there, not a file, or cut off', async () => {
  await expect(openFile(join(dir, 'absent'))).rejects.toThrow(/absent: no such file[\s\S]*check the path/);
  await expect(openFile(dir)).rejects.toThrow('not a file');
  writeFileSync(join(dir, 'short'), 'abc');
  const file = await openFile(join(dir, 'short'));
  expect(new TextDecoder().decode(await file.read(1, 2))).toBe('bc');
  await expect(file.read(2, 2)).rejects.toThrow('ends after 3 bytes');
  writeFileSync(join(dir, 'short'), 'a');
  await expect(file.read(0, 2)).rejects.toThrow('ends after 1 bytes');
  await file.close();
});

const f32 = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer);
const tensors: TensorToWrite[] = [
  { name: 'a', dtype: 'F32', shape: [2, 2], data: async () => f32(1, 2, 3, 4) },
  { name: 'b.weight', dtype: 'F32', shape: [3], data: async () => f32(5, 6, 7) },
  { name: 'empty', dtype: 'F32', shape: [0, 4], data: async () => f32() },
  { name: 'scalar', dtype: 'F32', shape: [], data: async () => f32(8) },
  { name: 'large', dtype: 'F32', shape: [10], data: async () => f32(...Array(10).keys()) },
];

async function check(checkpoint: Awaited<ReturnType<typeof openCheckpoint>>): Promise<void> {
  expect([...checkpoint.tensors.keys()].sort()).toEqual(tensors.map(({ name }) => name).sort());
  for (const { name, shape, data } of tensors) {
    const stored = checkpoint.tensors.get(name)!;
    expect(stored.shape).toEqual(shape);
    expect(new Uint8Array(await stored.read())).toEqual(await data());
  }
  expect(checkpoint.metadata).toEqual({ format: 'pt' });
  await checkpoint.close();
}

test('a checkpoint in one file, and in shards with an index', async () => {
  const folder = localFolder(dir);
  await writeCheckpoint(folder, tensors);
  expect(readdirSync(dir)).toEqual(['model.safetensors']);
  await check(await openCheckpoint(dir));
  await folder.remove('model.safetensors');

  await writeCheckpoint(folder, tensors, { maxShardBytes: 20, base: 'adapter_model' });
  const shard = (i: number) => `adapter_model-0000${i}-of-00003.safetensors`;
  expect(readdirSync(dir)).toEqual([shard(1), shard(2), shard(3), 'adapter_model.safetensors.index.json']);
  const index = JSON.parse(readFileSync(join(dir, 'adapter_model.safetensors.index.json'), 'utf8'));
  expect(index).toEqual({
    metadata: { total_size: 72 },
    weight_map: { a: shard(1), 'b.weight': shard(2), empty: shard(2), scalar: shard(2), large: shard(3) },
  });
  await check(await openCheckpoint(dir, 'adapter_model'));
  await expect(openCheckpoint(dir)).rejects.toThrow('neither model.safetensors nor model.safetensors.index.json');
});

test('a tensor that gives other bytes than it declared stops the write', async () => {
  const wrong = { ...tensors[0], data: async () => f32(1) };
  await expect(writeCheckpoint(localFolder(dir), [wrong])).rejects.toThrow('tensor "a" gave 4 bytes');
  expect(readdirSync(dir)).toEqual([]);
});

test('a model out of a folder, and what is missing in it', async () => {
  const folder = localFolder(dir);
  await expect(openModel(dir)).rejects.toThrow(/no config.json[\s\S]*the id of a model on the hub/);
  await folder.writeText('config.json', '{"model_type": "llama"}');
  await expect(openModel(dir)).rejects.toThrow('there is no tokenizer.json');
  await folder.writeText('tokenizer.json', '\ufeff{"model": {}}');
  await expect(openModel(dir)).rejects.toThrow('neither model.safetensors');
  await writeCheckpoint(folder, tensors);
  await folder.writeText('special_tokens_map.json', '{"eos_token": "old", "bos_token": "<s>"}');
  await folder.writeText('tokenizer_config.json', '{"eos_token": "</s>"}');
  const source = await openModel(dir);
  expect(source).toMatchObject({ name: dir, config: { model_type: 'llama' } });
  expect(source.tokenizer).toEqual({ tokenizerJson: { model: {} }, tokenizerConfig: { eos_token: '</s>', bos_token: '<s>' } });
  await source.checkpoint.close();
  await folder.writeText('chat_template.jinja', 'x');
  const again = await openModel(dir);
  expect(again.tokenizer.chatTemplate).toBe('x');
  expect(again.identity).toBe(source.identity);
  await again.checkpoint.close();
  await folder.writeText('config.json', '{"model_type": ');
  await expect(openModel(dir)).rejects.toThrow(`${dir}/config.json:1:`);
});
