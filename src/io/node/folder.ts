import { appendFile, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { LowrankError, messageOf } from '../../util/errors.js';
import type { Folder } from '../folder.js';
import { openFile } from '../node.js';

/** A folder on the local disk, created with its first file. */
export function localFolder(path: string): Folder {
  const at = (name: string) => join(path, name);
  return {
    path,
    writeText: (name, text) => write(at(name), once(new TextEncoder().encode(text))),
    write: (name, chunks) => write(at(name), chunks),
    append: (name, line) =>
      named(at(name), async () => {
        await mkdir(path, { recursive: true });
        await appendFile(at(name), `${line}\n`);
      }),
    readText: (name) => named(at(name), () => readFile(at(name), 'utf8')).catch(absent),
    open: (name) => openFile(at(name)),
    list: () => named(path, () => readdir(path)).catch((error) => absent(error) ?? []),
    remove: (name) => named(at(name), () => rm(at(name), { recursive: true, force: true })),
    folder: (name) => localFolder(at(name)),
    create: (name, fill) => create(path, name, fill),
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

/** Writes a temporary file beside the target and renames it when its bytes are on the disk. */
async function write(path: string, chunks: AsyncIterable<Uint8Array>): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  await named(path, async () => {
    await mkdir(dirname(path), { recursive: true });
    try {
      const file = await open(temporary, 'w');
      try {
        for await (const chunk of chunks) await file.writeFile(chunk);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  });
}

/** A rename lasts through a power failure when its folder has been synchronised, where the system can do that. */
async function syncFolder(path: string): Promise<void> {
  try {
    const folder = await open(path, 'r');
    await folder.sync().finally(() => folder.close());
  } catch {}
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

const mends: Record<string, string> = {
  ENOSPC: 'make room on the disk, or choose another output_dir',
  EDQUOT: 'make room on the disk, or choose another output_dir',
  EACCES: 'choose a folder that you may write to',
  EPERM: 'choose a folder that you may write to',
  EROFS: 'choose a folder that you may write to',
  ENOTDIR: 'choose a path whose parents are folders',
  EISDIR: 'name a file, not a folder',
};

async function named<T>(path: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    if (!code) throw error;
    throw new LowrankError(messageOf(error).replace(/^\w+: |,.*$/g, ''), {
      place: resolve(path),
      mend: mends[code] ?? 'check the path',
      cause: error,
    });
  }
}
