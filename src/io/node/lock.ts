import { lstat, mkdir, open, readFile, rm, rmdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { LowrankError } from '../../util/errors.js';
import { isObject, parseJson } from '../../util/json.js';
import { named } from './files.js';
import { beginningOf, isRunning } from './process.js';
import { locks, removeAbandoned } from './temporary.js';

/** The file in a folder that says who writes it. */
const lockName = '.lowrank.lock';

/** Who writes a folder, as its lock says it. */
interface Holder {
  pid: number;
  /** The name of the machine: a process number means nothing on another one that shares the disk. */
  host: string;
  /** When it began to write, in UTC: `2026-11-28T07:10:31Z`. */
  since: string;
  /** When the process itself began, in the system's own ticks, where the system tells it: numbers of processes are given out again. */
  started?: string;
}

/**
 * Makes this process the only one that writes a folder, until what it returns is called; makes the folder where there is none. Throws a
 * LowrankError that names the holder where somebody writes it already, this process included. What processes that have ended left
 * under way in it is removed.
 *
 * The lock is a file with the process's number and beginning, not a file whose time is renewed (as in `hub.ts`): the plain loops of
 * `reference` keep JavaScript's thread for longer than any renewal could wait, and so does a laptop that sleeps. A lock whose process has
 * ended counts for nothing from that moment on, however it ended.
 */
export async function lockFolder(path: string): Promise<() => Promise<void>> {
  const folder = resolve(path);
  const file = join(folder, lockName);
  const since = new Date().toISOString().replace(/\.\d+/, '');
  const own = JSON.stringify({ pid: process.pid, host: hostname(), since, started: await beginningOf(process.pid) });
  const made = new Set<string>();
  const removeMade = async () => {
    // The innermost first; what is not empty stays, and with it all around it.
    for (const inner of made) if (!(await succeeds(rmdir(inner)))) return;
  };
  try {
    await named(path, async () => {
      for (const inner of await makeFolder(folder)) made.add(inner);
      // A run that ends without a result removes the folder that it made, perhaps just now.
      const holder = await acquire(file, own).catch(async (error) => {
        if (codeOf(error) !== 'ENOENT') throw error;
        for (const inner of await makeFolder(folder)) made.add(inner);
        return acquire(file, own);
      });
      if (holder) throw inUse(path, file, holder);
      locks.set(file, own);
      await removeClaim(file);
      await removeAbandoned(folder);
    });
  } catch (error) {
    await removeMade();
    throw error;
  }
  return async () => {
    // What a failing disk keeps counts for nothing once this process has ended; the error that came first is the one to be told.
    if ((await readText(file).catch(() => undefined)) === own) await rm(file, { force: true }).catch(() => {});
    locks.delete(file);
    await removeMade();
  };
}

/**
 * Sees that the lock of a folder that this process has locked is there before it writes: whoever removed the folder during a run gets it
 * again, locked again, with all that the run goes on to write. Throws where another run has taken it meanwhile.
 */
export async function keepLock(path: string): Promise<void> {
  const folder = resolve(path);
  const file = join(folder, lockName);
  const own = locks.get(file);
  if (own === undefined || (await readText(file)) === own) return;
  await makeFolder(folder);
  const holder = await acquire(file, own);
  if (holder) throw inUse(path, file, holder);
}

/** Makes a folder with those above it; returns the ones that were not there, the innermost first. */
async function makeFolder(path: string): Promise<string[]> {
  try {
    await mkdir(path);
    return [path];
  } catch (error) {
    const code = codeOf(error);
    if (code === 'EEXIST') return [];
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    const outer = await makeFolder(dirname(path));
    // Where there is no place for it, as in /proc, there still is none.
    await mkdir(path).catch((again) => {
      if (codeOf(again) !== 'EEXIST') throw again;
    });
    return [path, ...outer];
  }
}

/** Creates a lock's file with this text, or returns who holds it. A lock whose process has ended is removed first. */
async function acquire(file: string, own: string): Promise<Holder | undefined> {
  for (;;) {
    if (await create(file, own)) return undefined;
    const { text, holder } = await readLock(file);
    if (text === undefined) continue;
    if (holder && (await isWriting(holder))) return holder;
    // One at a time looks again and removes it: another would remove the lock that by then has taken its place.
    const claim = claimOf(file);
    if (await acquire(claim, own)) {
      await setTimeout(20);
      continue;
    }
    if ((await readText(file)) === text) await rm(file, { force: true });
    await rm(claim, { force: true });
  }
}

const claimOf = (file: string) => `${file}.claim`;

/** Removes the claim of a process that has ended as it looked at a lock. */
async function removeClaim(file: string): Promise<void> {
  const { text, holder } = await readLock(claimOf(file));
  if (text !== undefined && !(holder && (await isWriting(holder)))) await rm(claimOf(file), { force: true });
}

/** False where the file is there. */
async function create(file: string, text: string): Promise<boolean> {
  try {
    const handle = await open(file, 'wx');
    try {
      await handle.writeFile(text);
    } catch (error) {
      await rm(file, { force: true }).catch(() => {});
      throw error;
    } finally {
      await handle.close();
    }
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false;
    throw error;
  }
}

/** Milliseconds after which a lock without contents is one whose process ended before it wrote them. */
const patience = 1000;

async function readLock(file: string): Promise<{ text?: string; holder?: Holder }> {
  const begin = performance.now();
  for (;;) {
    const text = await readText(file);
    if (text === undefined) return {};
    const holder = parseHolder(text);
    if (holder || performance.now() > begin + patience) return { text, holder };
    await setTimeout(20);
  }
}

/** The text of a file, or undefined where there is none. */
async function readText(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
    const isLink = (await lstat(file).catch(() => undefined))?.isSymbolicLink();
    if (isLink) throw new LowrankError('is a link that leads nowhere', { place: file, mend: 'remove it' });
    return undefined;
  }
}

function parseHolder(text: string): Holder | undefined {
  try {
    const value = parseJson(text, lockName);
    return isObject(value) && Number.isSafeInteger(value.pid) ? (value as unknown as Holder) : undefined;
  } catch {
    return undefined;
  }
}

async function isWriting({ pid, host, started }: Holder): Promise<boolean> {
  return host !== hostname() || (await isRunning(pid, started));
}

function inUse(path: string, file: string, { pid, host, since }: Holder): LowrankError {
  const here = host === hostname();
  const who = here ? (pid === process.pid ? `${pid}, which is this one` : pid) : `${pid} on ${host}`;
  const wait = 'wait until it ends, end it, or choose another output_dir=…';
  return new LowrankError(`another run writes into this folder: process ${who}, since ${since}`, {
    place: path,
    expected: 'a folder that no run writes into',
    mend: here ? wait : `${wait}; if it has ended without saying so, remove ${file}`,
  });
}

const codeOf = (error: unknown) => (error as NodeJS.ErrnoException).code;

function succeeds(done: Promise<unknown>): Promise<boolean> {
  return done.then(
    () => true,
    () => false,
  );
}
