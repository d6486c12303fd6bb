import { rmSync } from 'node:fs';
import { readdir, rename, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { beginningOf, isRunning } from './process.js';

/**
 * What is written beside its place before it is moved there. Its name says which process writes it: `.<name>.<process>-<beginning>-
 * <number>@<host>.tmp`, so that what a killed process leaves can be told from what a living one is about to finish; `.old` is on its way out.
 */
const pattern = /^\..+\.(\d+)(?:-(\d*)-\d+@([\w-]+))?\.(?:tmp|old)$/;

/** Paged memory before it has lost its name (native/platform/posix.cpp), which takes a moment. */
const paged = /^\.paged-\w{6}$/;

const host = hostname().replace(/[^\w-]/g, '_');
/** What is to go when this process ends: what it has under way, and its locks. */
export const underWay = new Set<string>();
let count = 0;
let beginning: Promise<string | undefined> | undefined;

/**
 * Runs `body` with the path of a file or folder that is not there yet, beside `path`. Whatever is there afterwards is removed; what a
 * failing disk does not let go of is left to the next start.
 */
export async function withTemporary<T>(path: string, body: (temporary: string) => Promise<T>, ending = 'tmp'): Promise<T> {
  beginning ??= beginningOf(process.pid);
  const tag = `${process.pid}-${(await beginning) ?? ''}-${count++}@${host}`;
  const temporary = join(dirname(path), `.${basename(path)}.${tag}.${ending}`);
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
  if (onHost !== undefined && onHost !== host) return false;
  return Number(pid) === process.pid || !(await isRunning(Number(pid), began));
}

/** Before this process ends without waiting for what it does: removes what is under way. */
export function removeUnderWay(): void {
  // A write that another thread has just begun may still put something into a folder.
  for (const path of underWay) rmSync(path, { recursive: true, force: true, maxRetries: 5, retryDelay: 20 });
}
