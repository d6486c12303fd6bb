/** Runs in several processes, and beside the command line: what `npm run prepare` built. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type RecipeInput, type RunEvent, startRun } from '../../src/index.js';
import { lowrank } from '../helpers/cli.js';
import { withoutNative } from '../helpers/native.js';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-processes-'));
const at = (...names: string[]) => join(root, ...names);
const device = withoutNative === undefined ? 'cpu' : 'reference';

beforeAll(async () => {
  vi.stubEnv('LOWRANK_THREADS', '2');
  await writeTinyModel(at('model'));
  writeRows(at('train.jsonl'), 20, 1);
  writeRows(at('test.jsonl'), 6, 2);
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(root, { recursive: true, force: true });
});

function recipe(name: string, more: Partial<RecipeInput> = {}): { path: string; object: RecipeInput; text: string } {
  const object = {
    base_model: 'model',
    datasets: ['train.jsonl'],
    test_datasets: ['test.jsonl'],
    output_dir: at(name),
    micro_batch_size: 4,
    num_epochs: 2,
    lora_r: 4,
    save_steps: 6,
    bf16: false,
    ...more,
  };
  // JSON is YAML.
  const text = JSON.stringify(object, null, 2);
  writeFileSync(at(`${name}.yaml`), text);
  return { path: at(`${name}.yaml`), object, text };
}

/** What a run has left, byte for byte but for what tells the time. */
function filesOf(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => statSync(join(folder, name)).isFile());
  const read = (name: string) => {
    const content = readFileSync(join(folder, name));
    if (name.endsWith('lowrank.json')) return content.toString().replace(/"clock": "[^"]*"/, '');
    if (name !== 'trainer_log.jsonl') return content.toString('latin1');
    return content.toString().replace(/"(elapsed_time|remaining_time|throughput)":[^,]*,/g, '');
  };
  return Object.fromEntries(names.sort().map((name) => [name, read(name)]));
}

test.each<[string, Partial<RecipeInput>]>([
  ['an adapter', {}],
  ['a model', { adapter: 'full' }],
])('from TypeScript %s gets the files that the command writes', async (_, more) => {
  const { path, object, text } = recipe('same', more);
  const { code, err } = await lowrank(['train', path, '--device', device]);
  expect({ code, err }).toMatchObject({ code: 0 });
  const wanted = filesOf(at('same'));
  expect(Object.keys(wanted).length).toBeGreaterThan(12);
  for (const given of [object, text]) {
    await startRun(given, { near: root, device, overwrite: true });
    const found = filesOf(at('same'));
    expect(Object.keys(found)).toEqual(Object.keys(wanted));
    for (const name of Object.keys(wanted)) expect(found[name] === wanted[name], name).toBe(true);
  }
  renameSync(at('same'), at(`same-${object.adapter ?? 'lora'}`));
});

test('from TypeScript nothing is printed, and no signal is listened to', async () => {
  let longest = 0;
  const measure = (event: RunEvent) => {
    if (event.type === 'data') longest = Math.max(longest, event.statistics.longest);
  };
  await startRun(recipe('measured', { max_steps: 1 }).object, { near: root, device, onEvent: measure });
  // Some rows are left out, of which the command would warn.
  const { object } = recipe('silent', { max_steps: 2, sequence_len: longest - 1 });
  const script = `
    import { startRun } from 'lowrank';
    const signals = () => ['SIGINT', 'SIGTERM', 'exit'].map((name) => process.listenerCount(name));
    const before = String(signals());
    let during = '';
    const seen = new Set();
    const onEvent = ({ type }) => { seen.add(type); during = String(signals()); };
    await startRun(${JSON.stringify(object)}, { near: ${JSON.stringify(root)}, onEvent });
    process.exitCode = before === during && seen.has('warning') && seen.has('end') ? 7 : 8;`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  expect({ status, stdout, stderr }).toEqual({ status: 7, stdout: '', stderr: '' });
});

test('a second run into a folder fails at once, in this process and in others, and the first goes on', async () => {
  const { path, object } = recipe('busy');
  let go = () => {};
  const waiting = new Promise<void>((resolve) => {
    go = resolve;
  });
  let reached = () => {};
  const begun = new Promise<void>((resolve) => {
    reached = resolve;
  });
  const stopAfter = async (step: number) => {
    reached();
    if (step === 2) await waiting;
    return undefined;
  };
  const first = startRun(object, { near: root, device, stopAfter });
  await begun;
  const refusal = new RegExp(`another run writes into this folder: process ${process.pid}`);
  await expect(startRun(object, { near: root, device, overwrite: true })).rejects.toThrow(refusal);
  await expect(startRun(object, { near: root, device, resume: true })).rejects.toThrow(refusal);
  const { code, out } = await lowrank(['train', path, '--overwrite', '--json']);
  expect(code).toBe(1);
  expect(JSON.parse(out).error).toMatchObject({ place: at('busy'), problem: expect.stringMatching(refusal), mend: expect.any(String) });
  go();
  expect((await first).steps).toBe(10);
  expect(readdirSync(at('busy')).filter((name) => name.startsWith('.'))).toEqual([]);
});

test('what a killed run leaves does not stop the next', async () => {
  const { path, object } = recipe('killed', { num_epochs: 4000, save_steps: 2 });
  const child = spawn(process.execPath, ['dist/cli/main.js', 'train', path], { stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  for await (const part of child.stderr) {
    text += part;
    if (/saved .*checkpoint-4/.test(text)) break;
  }
  await expect(startRun(object, { near: root, device })).rejects.toThrow(`process ${child.pid}, since `);
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(readdirSync(at('killed'))).toContain('.lowrank.lock');
  const stopAfter = async () => 'enough';
  const { steps } = await startRun(object, { near: root, device, resume: true, stopAfter });
  expect(steps).toBeGreaterThan(4);
  // What it was writing stays until a checkpoint of that name is written again; of the lock nothing does.
  expect(readdirSync(at('killed')).filter((name) => name.startsWith('.lowrank'))).toEqual([]);
});
