import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, expect, test, vi } from 'vitest';
import { localFolder } from '../../src/io/node/folder.js';

/** Milliseconds that file operations take longer, at random up to so many: what two do at once then mixes in every way. */
const files = vi.hoisted(() => ({ delay: 0 }));
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>();
  const late = <A extends unknown[], R>(body: (...args: A) => R) =>
    (async (...args: A) => {
      if (files.delay > 0) await setTimeout(files.delay * Math.random());
      return body(...args);
    }) as unknown as (...args: A) => R;
  return { ...real, readFile: late(real.readFile), writeFile: late(real.writeFile), rm: late(real.rm) };
});

const root = mkdtempSync(join(tmpdir(), 'lowrank-lock-'));
const at = (...names: string[]) => join(root, ...names);
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A script that locks a folder, says so, and holds the lock until it is killed. */
const holding = (path: string) => `const { localFolder } = await import('./dist/io/node/folder.js');
  await localFolder(${JSON.stringify(path)}).lock();
  console.log('locked');
  setInterval(() => {}, 1000);`;

/** A process that has locked a folder. */
async function holder(path: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', holding(path)], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout!, 'data');
  return child;
}

async function killed(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  await once(child, 'exit');
}

const lockFile = (name: string) => at(name, '.lowrank.lock');

/** What a holder's lock says, changed. */
function forge(name: string, change: object): void {
  const own = { pid: process.pid, host: hostname(), since: '2026-01-02T03:04:05Z' };
  mkdirSync(at(name), { recursive: true });
  writeFileSync(lockFile(name), JSON.stringify({ ...own, ...change }));
}

test('a folder has one lock at a time, which leaves nothing behind', async () => {
  const folder = localFolder(at('one', 'inner'));
  const unlock = await folder.lock();
  await expect(folder.lock()).rejects.toMatchObject({
    place: at('one', 'inner'),
    problem: expect.stringMatching(
      new RegExp(`^another run writes into this folder: process ${process.pid}, which is this one, since 20\\d\\d-`),
    ),
    mend: expect.stringMatching(/wait until it ends.*output_dir/),
  });
  // The one that was refused took nothing away.
  expect(readdirSync(at('one', 'inner'))).toEqual(['.lowrank.lock']);
  await unlock();
  expect(existsSync(at('one'))).toBe(false);
  await (await folder.lock())();

  mkdirSync(at('two'));
  const again = await localFolder(at('two')).lock();
  await localFolder(at('two')).writeText('result', 'x');
  await again();
  expect(readdirSync(at('two'))).toEqual(['result']);
});

test('another process is named; when it is killed its lock counts for nothing', async () => {
  const child = await holder(at('other'));
  const { since } = JSON.parse(readFileSync(lockFile('other'), 'utf8'));
  expect(Math.abs(Date.parse(since) - Date.now())).toBeLessThan(60_000);
  await expect(localFolder(at('other')).lock()).rejects.toThrow(`process ${child.pid}, since ${since}`);
  await killed(child);
  expect(existsSync(lockFile('other'))).toBe(true);
  const begin = performance.now();
  await (await localFolder(at('other')).lock())();
  expect(performance.now() - begin).toBeLessThan(1000);
  expect(readdirSync(at('other'))).toEqual([]);
});

test('of many at once one gets the lock, also where a process that has ended left one', async () => {
  const child = await holder(at('many'));
  await killed(child);
  files.delay = 3;
  for (let round = 0; round < 30; round++) {
    if (round % 2 === 0) forge('many', { pid: child.pid });
    const all = await Promise.allSettled(Array.from({ length: 12 }, () => localFolder(at('many')).lock()));
    const taken = all.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    expect(taken).toHaveLength(1);
    expect(all.flatMap((one) => (one.status === 'rejected' ? [one.reason.problem] : []))).toEqual(
      Array(11).fill(expect.stringContaining('another run writes into this folder')),
    );
    await taken[0]();
    expect(readdirSync(at('many'))).toEqual([]);
  }
  files.delay = 0;
});

test.runIf(process.platform === 'linux')('a process that has the number of one that ended is not it', async () => {
  forge('number', { started: '1' });
  await (await localFolder(at('number')).lock())();
  forge('number', {});
  await expect(localFolder(at('number')).lock()).rejects.toThrow(`${process.pid}, which is this one, since 2026-01-02T03:04:05Z`);
});

test.runIf(process.platform === 'linux')(
  'a process that has ended counts for nothing though its parent has not asked how it ended',
  async () => {
    const script = `'${process.execPath}' --input-type=module -e "$SCRIPT" & exec sleep 60`;
    const env = { ...process.env, SCRIPT: holding(at('asleep')) };
    const parent = spawn('sh', ['-c', script], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    await once(parent.stdout!, 'data');
    const { pid } = JSON.parse(readFileSync(lockFile('asleep'), 'utf8'));
    process.kill(pid, 'SIGKILL');
    const isEnding = () => !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
    while (isEnding()) await setTimeout(5);
    await (await localFolder(at('asleep')).lock())();
    await killed(parent);
  },
);

test('of another machine nothing is known: its lock holds, and what to remove is said', async () => {
  // No process here has that number.
  forge('machine', { pid: 0x7fff_ffff, host: 'elsewhere' });
  await expect(localFolder(at('machine')).lock()).rejects.toThrow(
    new RegExp(`process 2147483647 on elsewhere.*remove ${lockFile('machine')}`, 's'),
  );
});

test('a lock without contents was left by a process that ended as it wrote', async () => {
  mkdirSync(at('empty'));
  writeFileSync(lockFile('empty'), '');
  await (await localFolder(at('empty')).lock())();
  expect(readdirSync(at('empty'))).toEqual([]);
});

test('where no lock can be, the error names the place', async () => {
  symlinkSync(at('nowhere'), at('dangling'));
  await expect(localFolder(at('dangling')).lock()).rejects.toMatchObject({ place: at('dangling'), mend: expect.any(String) });
  writeFileSync(at('file'), '');
  await expect(localFolder(at('file', 'inner')).lock()).rejects.toMatchObject({ place: at('file', 'inner'), mend: expect.any(String) });
  mkdirSync(lockFile('blocked'), { recursive: true });
  await expect(localFolder(at('blocked')).lock()).rejects.toMatchObject({ place: at('blocked'), mend: expect.any(String) });
});
