import { constants } from 'node:fs';
import { appendFile, lstat, mkdir, open, readdir, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LowrankError } from '../../util/errors.js';
import type { Folder } from '../folder.js';
import { homePath, named, openFile, syncFolder, writeChunks, writeText } from './files.js';
import { keepLock, lockFolder } from './lock.js';
import { removeAbandoned, removeAround, withTemporary } from './temporary.js';

/** A folder on the local disk, created with its first file. */
export function localFolder(name: string): Folder {
  const path = homePath(name);
  const at = (name: string) => join(path, name);
  return {
    path,
    writeText: (name, text) => writeText(at(name), text),
    write: (name, chunks) => writeChunks(at(name), chunks),
    append: (name, line) =>
      named(at(name), async () => {
        await keepLock(path);
        await mkdir(path, { recursive: true });
        await appendFile(at(name), `${line}\n`);
      }),
    readText: (name) => named(at(name), () => readFile(at(name), 'utf8')).catch(absent),
    open: (name) => openFile(at(name)),
    list: () => named(path, () => readdir(path)).catch((error) => absent(error) ?? []),
    lock: () => lockFolder(path),
    checkAppendable: (name) => checkAppendable(at(name)),
    remove: (name) => named(at(name), () => removeAround(at(name))),
    folder: (name) => localFolder(at(name)),
    create: (name, fill) => create(path, name, fill),
    publish: (key, old, fill) => publish(path, key, old, fill),
  };
}

function absent(error: unknown): undefined {
  const code = ((error as LowrankError).cause as NodeJS.ErrnoException | undefined)?.code;
  if (code === 'ENOENT') return undefined;
  throw error;
}

async function create(path: string, name: string, fill: (folder: Folder) => Promise<void>): Promise<void> {
  await named(path, async () => {
    await keepLock(path);
    await removeAbandoned(path, name);
    await withTemporary(join(path, name), async (temporary) => {
      await mkdir(temporary, { recursive: true });
      await fill(localFolder(temporary));
      await removeAround(join(path, name), () => rename(temporary, join(path, name)));
      await syncFolder(path);
    });
  });
}

async function publish(path: string, key: string, old: RegExp, fill: (folder: Folder) => Promise<void>): Promise<void> {
  await named(path, () =>
    withTemporary(join(path, 'result'), async (temporary) => {
      await keepLock(path);
      await mkdir(temporary, { recursive: true });
      await fill(localFolder(temporary));
      const names = (await readdir(temporary)).filter((name) => name !== key);
      // Before anything is gone: what cannot be put in its place is found now.
      for (const name of [...names, key]) await checkReplaceable(join(path, name), old.test(name));
      const outdated = (await readdir(path)).filter((name) => name !== key && old.test(name));
      for (const name of [key, ...outdated]) await removeAround(join(path, name));
      await syncFolder(path);
      for (const name of [...names, key]) await rename(join(temporary, name), join(path, name));
      await syncFolder(path);
    }),
  );
}

/** Throws where a folder has the name of a file that is to be written, unless that goes first. */
async function checkReplaceable(path: string, goes: boolean): Promise<void> {
  if (!goes && (await lstat(path).catch(() => undefined))?.isDirectory())
    throw new LowrankError('is a folder, and a file of that name is to be written', { place: path, mend: 'move it away' });
}

/** Throws where no line can be added to a file, without touching it. */
async function checkAppendable(path: string): Promise<void> {
  await named(path, async () => {
    const stats = await stat(path).catch(() => undefined);
    const what = stats?.isDirectory() ? 'a folder' : 'no file';
    if (stats && !stats.isFile()) throw new LowrankError(`is ${what}, and lines are to be written`, { place: path, mend: 'move it away' });
    // One that is protected does not open.
    if (stats) await (await open(path, constants.O_WRONLY | constants.O_APPEND)).close();
  });
}
