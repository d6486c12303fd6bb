import { createReadStream } from 'node:fs';
import { mkdir, open, rename } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { LowrankError, messageOf } from '../../util/errors.js';
import type { FileSource } from '../source.js';
import { goOnWriting, withTemporary } from './temporary.js';

/** A path in which `~` at the beginning is the user's home, as shells have it: those do not see it in a recipe or behind `key=`. */
export function homePath(path: string): string {
  return /^~(?=$|[\\/])/.test(path) ? join(homedir(), path.slice(1)) : path;
}

/** Opens a local file for reading. */
export function openFile(path: string): Promise<FileSource> {
  return named(path, async () => {
    const handle = await open(path, 'r');
    const stat = await handle.stat();
    if (!stat.isFile()) {
      await handle.close();
      throw new LowrankError('not a file', { place: path, mend: mends.EISDIR });
    }
    const { size } = stat;
    return {
      name: path,
      path,
      size,
      async read(offset, length) {
        if (offset + length > size) throw cut(path, size, offset + length);
        const bytes = new Uint8Array(length);
        let done = 0;
        while (done < length) {
          const { bytesRead } = await handle.read(bytes, done, length - done, offset + done);
          if (bytesRead === 0) throw cut(path, offset + done, offset + length);
          done += bytesRead;
        }
        return bytes;
      },
      close: () => handle.close(),
    };
  });
}

/** A file that is read from its beginning, as often as one likes. Throws Node's own error where there is none. */
export async function openBytes(path: string): Promise<{ bytes: number; read: () => AsyncIterable<Uint8Array> }> {
  const handle = await open(path, 'r');
  try {
    const stat = await handle.stat();
    if (stat.isDirectory()) throw Object.assign(new Error('is a directory'), { code: 'EISDIR' });
    return { bytes: stat.size, read: () => createReadStream(path, { highWaterMark: 1 << 20 }) };
  } finally {
    await handle.close();
  }
}

function cut(path: string, end: number, wanted: number): LowrankError {
  return new LowrankError(`ends after ${end} bytes`, {
    place: path,
    expected: `${wanted} bytes`,
    mend: 'download or write the file again',
  });
}

/**
 * Writes a file piece by piece, with the folders above it: a temporary file beside it is renamed when its bytes are on the disk, so that
 * the path holds the old file or the whole new one. The temporary file does not outlast a failure.
 */
export function writeChunks(path: string, chunks: AsyncIterable<Uint8Array>): Promise<void> {
  return named(path, async () => {
    await withTemporary(path, async (temporary) => {
      await mkdir(dirname(path), { recursive: true });
      const file = await open(temporary, 'w');
      try {
        for await (const chunk of chunks) {
          goOnWriting();
          await file.writeFile(chunk);
        }
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      await syncFolder(dirname(path));
    });
  });
}

/** Writes a text file in UTF-8; the path holds the old text or the whole new one. */
export function writeText(path: string, text: string): Promise<void> {
  return writeChunks(path, once(new TextEncoder().encode(text)));
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** A rename lasts through a power failure when its folder has been synchronised, where the system can do that. */
export async function syncFolder(path: string): Promise<void> {
  try {
    const folder = await open(path, 'r');
    await folder.sync().finally(() => folder.close());
  } catch {}
}

const mends: Record<string, string> = {
  ENOENT: 'check the path',
  ENOSPC: 'make room on the disk, or choose another folder',
  EDQUOT: 'make room on the disk, or choose another folder',
  EACCES: 'choose a path that you may read and write',
  EPERM: 'choose a path that you may read and write; a file may be protected (lsattr)',
  EROFS: 'choose a folder that you may write to',
  ENOTDIR: 'choose a path whose parents are folders',
  EISDIR: 'name a file, not a folder',
  EMFILE: 'raise the limit of open files (ulimit -n)',
};

/** Runs `body`; what the file system refuses becomes an error that names the path and says what to do. */
export async function named<T>(path: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    // An AbortError, too, has a code, which is a number.
    if (typeof code !== 'string') throw error;
    throw new LowrankError(messageOf(error).replace(/^\w+: |,.*$/g, ''), {
      place: resolve(path),
      mend: mends[code] ?? 'check the path',
      cause: error,
    });
  }
}
