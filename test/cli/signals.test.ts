/** Signals, as a real process gets them. */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-signals-'));
const at = (...names: string[]) => join(root, ...names);
beforeAll(async () => {
  await writeTinyModel(at('model'));
  writeRows(at('train.jsonl'), 20);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Starts a program; `seen` is everything that it has said, on both streams. */
function start(command: string, args: readonly string[]) {
  const env = { ...process.env, NO_COLOR: '1', LOWRANK_THREADS: '2', TERM: 'xterm' };
  const child: ChildProcessWithoutNullStreams = spawn(command, args, { env, stdio: 'pipe' });
  let seen = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (part) => {
      seen += part;
    });
    stream.on('error', () => {});
  }
  const ended = new Promise<number | null>((done) => child.on('close', done));
  const until = async (what: RegExp) => {
    while (!what.test(seen) && child.exitCode === null) await setTimeout(5);
    expect(seen).toMatch(what);
  };
  return { child, ended, until, seen: () => seen };
}

function train(name: string, more: object = {}) {
  const recipe = {
    base_model: 'model',
    datasets: ['train.jsonl'],
    output_dir: at(name),
    micro_batch_size: 4,
    bf16: false,
    lora_r: 4,
    ...more,
  };
  writeFileSync(at(`${name}.yaml`), JSON.stringify(recipe));
  return start(process.execPath, ['dist/cli/main.js', 'train', at(`${name}.yaml`)]);
}

test.each<NodeJS.Signals>(['SIGTERM', 'SIGHUP'])('%s finishes the step and saves', async (signal) => {
  const { child, until, ended, seen } = train(signal, { num_epochs: 4000, save_steps: 100_000 });
  await until(/step 3\//);
  child.kill(signal);
  await until(/finishing the step under way/);
  // A terminal that closes says it more than once, and nobody reads any more.
  if (signal === 'SIGHUP') child.kill(signal);
  if (signal === 'SIGHUP') for (const stream of [child.stdout, child.stderr]) stream.destroy();
  expect(await ended, seen()).toBe(130);
  const names = readdirSync(at(signal));
  expect(names).toContain('adapter_config.json');
  expect(names.filter((name) => /^checkpoint-\d+$/.test(name))).toHaveLength(1);
  expect(names.filter((name) => name.startsWith('.'))).toEqual([]);
});

test('a second signal ends at once, and leaves no temporary folder and no lock', async () => {
  // Whole ones are long on their way: 2,100 rows of everything, of which a checkpoint is written after each step.
  const { child, until, ended } = train('twice', { lora_r: 2100, num_epochs: 4000, save_steps: 1, save_total_limit: 1 });
  await until(/saved .*checkpoint-2\n/);
  const temporary = () => (existsSync(at('twice')) ? readdirSync(at('twice')).filter((name) => name.endsWith('.tmp')) : []);
  while (temporary().length === 0) await setTimeout(1);
  child.kill('SIGTERM');
  child.kill('SIGTERM');
  await until(/finishing the step under way/);
  child.kill('SIGTERM');
  expect(await ended).toBe(130);
  expect(readdirSync(at('twice')).filter((name) => name.startsWith('.'))).toEqual([]);
});

const script = spawnSync('script', ['--version'], { encoding: 'utf8' });
const pseudoTerminal = script.status === 0 && script.stdout.includes('util-linux');

test.for([
  ['Ctrl-C', '\x03'],
  ['Ctrl-D', '\x04'],
])('%s at the prompt of a chat ends its line', async ([name, key], { skip }) => {
  if (!pseudoTerminal) skip('needs script of util-linux');
  const command = `${process.execPath} dist/cli/main.js chat --model ${at('model')} --max-new-tokens 4`;
  const { child, until, ended, seen } = start('script', ['-qec', command, '/dev/null']);
  await until(/lists the commands[\s\S]*> /);
  if (name === 'Ctrl-C') {
    child.stdin.write('half a line');
    await until(/half a line/);
  }
  child.stdin.write(key);
  expect(await ended).toBe(0);
  // Without what moves the cursor: the last line is empty, so that the shell begins a fresh one.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences are what is taken away
  const text = seen().replace(/\x1b\[[\d;?]*[A-Za-z]/g, '');
  expect(text).toMatch(name === 'Ctrl-C' ? /> half a line\s*\n$/ : /> \s*\n$/);
});
