import { rmSync } from 'node:fs';
import { readdir, rename, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { beginningOf, isRunning } from './process.js';

/**
 * What is written beside its place before it is moved there. Its name says which process writes it: `.<name>.<process>-<beginning>-
 * <number>@<host>.tmp`, so that what a killed process leaves can be told from what a living one is about to finish; `.old` is on its
 * way out.
 */
const pattern = /^\..+\.(\d+)-(\d*)-\d+@([\w-]+)\.(?:tmp|old)$/;

/** Paged memory before it has lost its name (native/platform/posix.cpp), which takes a moment. */
const paged = /^\.paged-\w{6}$/;

const host = hostname().replace(/[^\w-]/g, '_');
/** What this process has under way, */
const underWay = new Set<string>();
/** and the locks that it holds: what their files say, by their paths. */
export const locks = new Map<string, string>();
let count = 0;
let ending = false;
let beginning: Promise<string | undefined> | undefined;

/**
 * Runs `body` with the path of a file or folder that is not there yet, beside `path`. Whatever is there afterwards is removed; what a
 * failing disk does not let go of is left to the next start.
 */
export async function withTemporary<T>(path: string, body: (temporary: string) => Promise<T>, extension = 'tmp'): Promise<T> {
  goOnWriting();
  beginning ??= beginningOf(process.pid);
  const tag = `${process.pid}-${(await beginning) ?? ''}-${count++}@${host}`;
  const temporary = join(dirname(path), `.${basename(path)}.${tag}.${extension}`);
  underWay.add(temporary);
  try {
    return await body(temporary);
  } finally {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
    underWay.delete(temporary);
  }
}

/** Moves a file or folder, if there is one, out of the way in one step, runs `body`, and removes it; where `body` fails it comes back. */
export function removeAround(path: string, body: () => Promise<void> = async () => {}): Promise<void> {
  const moveAway = async (old: string) => {
    await rename(path, old).catch((error) => {
      if (error.code !== 'ENOENT') throw error;
    });
    await body().catch(async (error) => {
      await rename(old, path).catch(() => {});
      throw error;
    });
  };
  return withTemporary(path, moveAway, 'old');
}

/** Removes what processes that have ended left under way in a folder, of `name` or of everything: it may be gigabytes. */
export async function removeAbandoned(folder: string, name?: string): Promise<void> {
  for (const entry of await readdir(folder).catch(() => [])) {
    const path = join(folder, entry);
    const match = name === undefined || entry.startsWith(`.${name}.`) ? pattern.exec(entry) : null;
    const isLeft = match ? !underWay.has(path) && (await hasEnded(match)) : name === undefined && paged.test(entry);
    if (isLeft) await rm(path, { recursive: true, force: true }).catch(() => {});
  }
}

async function hasEnded([, pid, began, onHost]: RegExpExecArray): Promise<boolean> {
  if (onHost !== host) return false;
  return Number(pid) === process.pid || !(await isRunning(Number(pid), began));
}

/** Throws where the process is about to end: between two pieces of a long write. */
export function goOnWriting(): void {
  if (ending) throw new DOMException('the process is about to end', 'AbortError');
}

/** Milliseconds that a process which is to end waits for what it is writing. */
const patience = 2000;

/** Before this process ends without waiting for its jobs: what is under way stops and is removed, and locks are. */
export async function endWriting(): Promise<void> {
  ending = true;
  const begin = performance.now();
  // What another thread has just begun may still put something into a folder: all that write have to see that they are to stop.
  while (underWay.size > 0 && performance.now() < begin + patience) await setTimeout(5);
  for (const path of [...underWay, ...locks.keys()]) rmSync(path, { recursive: true, force: true });
}
