/** What people and machines do to the folder of a run: nothing of it may hang, lose what is there, or end with other bits in silence. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { RecipeInput, RunEvent, RunOptions } from '../../src/index.js';
import { differences, filesOf, namesIn, Workbench } from './runs.js';

const bench = new Workbench();
/** What a run leaves that nothing was done to, and the folder of it. */
let wanted: Record<string, string>;
let whole: string;
beforeAll(async () => {
  await bench.prepare();
  whole = bench.folder();
  wanted = await bench.whole('LoRA', whole);
});
afterAll(() => bench.dispose());

const run = (folder: string, options: Partial<RunOptions> = {}, more: Partial<RecipeInput> = {}) =>
  bench.whole('LoRA', folder, options, more);
const failure = (started: Promise<unknown>) =>
  started.then(
    () => 'no error',
    (error: Error) => error.message,
  );
const atStep = (step: number, act: () => void) => (event: RunEvent) => void (event.type === 'step' && event.record.step === step && act());

/** A folder with both of a run's checkpoints and nothing else. */
async function checkpointed(): Promise<string> {
  const folder = bench.folder();
  await run(folder, {}, { save_total_limit: 2 });
  for (const name of readdirSync(folder)) if (!name.startsWith('checkpoint-')) rmSync(join(folder, name));
  return folder;
}

test.each(['with spaces and ünïcödé 🦙', 'quote\'s "double" $HOME `x` %s', 'a#b?c&d=e', '-leading', 'new\nline'])(
  'output_dir is called %j',
  async (name) => {
    // Two files say the name, each by its own rules of quoting.
    const differing = differences(await run(bench.at(name)), wanted);
    expect(differing.filter((line) => !/trainer_state|training_args/.test(line))).toEqual([]);
    expect(readdirSync(bench.at(name)).filter((entry) => entry.startsWith('.'))).toEqual([]);
  },
);

test('output_dir is a link to a folder, to a file, to nothing, or is a file', async () => {
  const target = bench.folder();
  mkdirSync(target);
  symlinkSync(target, bench.at('link'));
  await run(bench.at('link'));
  expect(differences(filesOf(target), wanted).filter((line) => !/args|state|lowrank.json/.test(line))).toEqual([]);
  writeFileSync(bench.at('file'), 'mine');
  symlinkSync(bench.at('file'), bench.at('to-file'));
  symlinkSync(bench.at('nowhere'), bench.at('to-nowhere'));
  for (const name of ['file', 'to-file', 'to-nowhere', 'file/inner']) {
    expect(await failure(run(bench.at(name))), name).toMatch(/(file|to-file|to-nowhere|inner): .*\n *(expected: .*\n *)?to mend: /);
  }
  expect(readFileSync(bench.at('file'), 'utf8')).toBe('mine');
  expect(existsSync(bench.at('nowhere'))).toBe(false);
});

test.runIf(process.platform === 'linux').each(['/proc/nobody', '/proc/no/body', '/dev/null', '/dev/null/below'])(
  'output_dir is %s, where nothing can be made',
  async (folder) => expect(await failure(run(folder))).toMatch(/^\/.*: .*\n *to mend: /),
);

test('output_dir leads to the base’s folder', async () => {
  symlinkSync(bench.at('model'), bench.at('to-model'));
  const before = filesOf(bench.at('model'));
  for (const name of ['model', 'to-model'])
    expect(await failure(run(bench.at(name), { overwrite: true })), name).toContain('output_dir is the base model’s folder');
  expect(filesOf(bench.at('model'))).toEqual(before);
});

test('the folder is removed, or moved, while a run writes it: it is there again, and is still one run’s', async () => {
  const folder = bench.folder();
  const second: string[] = [];
  const onEvent = (event: RunEvent) => {
    if (event.type === 'step' && event.record.step === 3) rmSync(folder, { recursive: true });
    if (event.type === 'checkpoint' && event.step === 4) second.push(readFileSync(join(folder, '.lowrank.lock'), 'utf8'));
  };
  const files = await run(folder, { onEvent });
  // The log has lost its first lines with the folder.
  expect(differences(files, wanted)).toEqual(['trainer_log.jsonl differs']);
  expect(JSON.parse(second[0]).pid).toBe(process.pid);
});

test('another run has taken the folder that was removed: the first one ends', async () => {
  const folder = bench.folder();
  const steal = atStep(3, () => {
    rmSync(folder, { recursive: true });
    mkdirSync(folder);
    const lock = { pid: process.ppid, host: hostOf(), since: '2026-01-02T03:04:05Z' };
    writeFileSync(join(folder, '.lowrank.lock'), JSON.stringify(lock));
  });
  expect(await failure(run(folder, { onEvent: steal }))).toMatch(/another run writes into this folder: process \d+, since 2026-01-02/);
  expect(namesIn(folder)).toEqual(['.lowrank.lock']);
});

const hostOf = () => JSON.parse(spawnSync(process.execPath, ['-p', 'JSON.stringify(os.hostname())'], { encoding: 'utf8' }).stdout);

test('a run that is stopped, not ended, holds its folder', async () => {
  const folder = bench.folder();
  const script = `const { localFolder } = await import('./dist/io/node/folder.js');
    await localFolder(${JSON.stringify(folder)}).lock(); console.log('locked'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  child.kill('SIGSTOP');
  expect(await failure(run(folder))).toContain(`another run writes into this folder: process ${child.pid}`);
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(differences(await run(folder), wanted)).toEqual([]);
});

test('a lock or a log that is a link, a pipe or a folder neither hangs nor goes', async () => {
  const cases: [string, (path: string) => void][] = [
    ['.lowrank.lock', (path) => symlinkSync('/nowhere/at/all', path)],
    ['.lowrank.lock', (path) => mkdirSync(path)],
    ['trainer_log.jsonl', (path) => mkdirSync(path)],
    ...(process.platform === 'win32'
      ? []
      : [['trainer_log.jsonl', (path: string) => void spawnSync('mkfifo', [path])] as [string, (path: string) => void]]),
  ];
  for (const [name, make] of cases) {
    const folder = bench.folder();
    mkdirSync(folder);
    make(join(folder, name));
    expect(await failure(run(folder)), name).toMatch(/to mend: /);
    expect(readdirSync(folder)).toEqual([name]);
  }
});

test.each(['adapter_config.json', 'adapter_model.safetensors', 'optimizer.safetensors', 'trainer_state.json'])(
  'a checkpoint whose %s is gone, empty or cut off is refused by that name, and the one before it goes on',
  async (name) => {
    const folder = await checkpointed();
    const path = join(folder, 'checkpoint-4', name);
    const content = readFileSync(path);
    for (const damage of [() => rmSync(path), () => writeFileSync(path, ''), () => truncateSync(path, content.length >> 1)]) {
      writeFileSync(path, content);
      damage();
      const message = await failure(run(folder, { resume: true }, { save_total_limit: 2 }));
      expect(message).toContain(join(folder, 'checkpoint-4'));
      expect(message).toContain(name);
      expect(message).toMatch(/to mend: /);
      expect(namesIn(folder).sort()).toEqual(['checkpoint-2', 'checkpoint-4']);
    }
    const files = await run(folder, { resume: join(folder, 'checkpoint-2') }, { save_total_limit: 1 });
    const lost = differences(files, wanted);
    expect(lost.filter((line) => !/trainer_log|trainer_state|training_args/.test(line))).toEqual([]);
  },
);

test('what only looks like a checkpoint is refused by its name', async () => {
  const folder = await checkpointed();
  rmSync(join(folder, 'checkpoint-4'), { recursive: true });
  const resume = () => failure(run(folder, { resume: true }, { save_total_limit: 2 }));
  writeFileSync(join(folder, 'checkpoint-9'), 'a file');
  expect(await resume()).toMatch(/checkpoint-9(\/\S+)?: .*\n[\s\S]*to mend: /);
  rmSync(join(folder, 'checkpoint-9'));
  mkdirSync(join(folder, 'checkpoint-99999999999999999999'));
  expect(await resume()).toMatch(/checkpoint-9{20}: holds no trainer_state.json\n[\s\S]*to mend: /);
  rmSync(join(folder, 'checkpoint-99999999999999999999'), { recursive: true });
  expect(await resume()).toBe('no error');
});

test('a checkpoint whose state says nonsense is refused', async () => {
  const folder = await checkpointed();
  const path = join(folder, 'checkpoint-4', 'trainer_state.json');
  const state = JSON.parse(readFileSync(path, 'utf8'));
  for (const change of [{ global_step: -1 }, { global_step: 1e9 }, { global_step: 5 }, { global_step: '4' }, { recipe: null }]) {
    writeFileSync(path, JSON.stringify({ ...state, ...change }));
    const message = await failure(run(folder, { resume: true }, { save_total_limit: 2 }));
    expect(message, JSON.stringify(change)).toMatch(/trainer_state\.json: [\s\S]*to mend: /);
  }
});

test('a result that was moved away is not missed, and one in the way of another kind is not overwritten', async () => {
  const folder = bench.folder();
  cpSync(whole, folder, { recursive: true });
  renameSync(join(folder, 'adapter_model.safetensors'), join(folder, 'mine.safetensors'));
  expect(await failure(run(folder))).toContain('holds an earlier run');
  expect(await failure(bench.whole('a whole model', folder))).toContain('holds an earlier run');
  expect(await failure(bench.whole('a whole model', folder, { resume: true }))).toMatch(/adapter|lora/);
  const files = await run(folder, { overwrite: true });
  expect(differences(files, wanted)).toEqual(['mine.safetensors is left over']);
});
