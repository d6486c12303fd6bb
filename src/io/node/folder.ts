import { appendFile, mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { LowrankError } from '../../util/errors.js';
import type { Folder } from '../folder.js';
import { homePath, named, openFile, syncFolder, writeChunks, writeText } from './files.js';
import { isRunning, lockFolder } from './lock.js';

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
        await mkdir(path, { recursive: true });
        await appendFile(at(name), `${line}\n`);
      }),
    readText: (name) => named(at(name), () => readFile(at(name), 'utf8')).catch(absent),
    open: (name) => openFile(at(name)),
    list: () => named(path, () => readdir(path)).catch((error) => absent(error) ?? []),
    lock: () => lockFolder(path),
    remove: (name) => named(at(name), () => rm(at(name), { recursive: true, force: true })),
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
  const temporary = join(path, `.${name}.${process.pid}.tmp`);
  const old = join(path, `.${name}.${process.pid}.old`);
  await named(path, async () => {
    await removeAbandoned(path, name);
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true });
    try {
      await fill(localFolder(temporary));
      await rename(join(path, name), old).catch((error) => {
        if (error.code !== 'ENOENT') throw error;
      });
      await rename(temporary, join(path, name));
      await syncFolder(path);
    } finally {
      await rm(temporary, { recursive: true, force: true });
      await rm(old, { recursive: true, force: true });
    }
  });
}

/** Removes what processes that ended in the middle of `create` left of a folder, which may be gigabytes. */
async function removeAbandoned(path: string, name: string): Promise<void> {
  for (const entry of await readdir(path).catch(() => [])) {
    const pid = entry.startsWith(`.${name}.`) ? /^(\d+)\.(?:tmp|old)$/.exec(entry.slice(name.length + 2))?.[1] : undefined;
    if (pid !== undefined && !isRunning(Number(pid))) await rm(join(path, entry), { recursive: true, force: true });
  }
}

async function publish(path: string, key: string, old: RegExp, fill: (folder: Folder) => Promise<void>): Promise<void> {
  const temporary = join(path, `.result.${process.pid}.tmp`);
  await named(path, async () => {
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true });
    try {
      await fill(localFolder(temporary));
      const names = (await readdir(temporary)).filter((name) => name !== key);
      const outdated = (await readdir(path)).filter((name) => name !== key && old.test(name));
      for (const name of [key, ...outdated]) await rm(join(path, name), { force: true });
      await syncFolder(path);
      for (const name of [...names, key]) await rename(join(temporary, name), join(path, name));
      await syncFolder(path);
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
  });
}
