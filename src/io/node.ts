import { open } from 'node:fs/promises';
import { LowrankError, messageOf } from '../util/errors.js';
import type { FileSource } from './source.js';

/** Opens a local file for reading. */
export async function openFile(path: string): Promise<FileSource> {
  try {
    const handle = await open(path, 'r');
    const { size } = await handle.stat();
    return {
      name: path,
      path,
      size,
      async read(offset, length) {
        const bytes = new Uint8Array(length);
        let done = 0;
        while (done < length) {
          const { bytesRead } = await handle.read(bytes, done, length - done, offset + done);
          if (bytesRead === 0) throw new LowrankError(`ends after ${offset + done} bytes`, { place: path, expected: `${offset + length} bytes` });
          done += bytesRead;
        }
        return bytes;
      },
      close: () => handle.close(),
    };
  } catch (error) {
    throw new LowrankError(`cannot be opened: ${messageOf(error)}`, { place: path, mend: 'check the path and its permissions', cause: error });
  }
}
