import { LowrankError, messageOf } from '../util/errors.js';
import type { GgufLayout } from './gguf-layout.js';
import { openGguf } from './gguf-model.js';
import { ggufNames } from './gguf-split.js';
import { type ModelSource, openModelFiles } from './model-source.js';
import type { FileSource } from './source.js';

/** A Blob as a file; a File brings its name. */
export function blobSource(blob: Blob, name = blob instanceof File ? blob.name : 'blob'): FileSource {
  return {
    name,
    size: blob.size,
    async read(offset, length) {
      checkRange(name, offset, length, blob.size);
      try {
        return new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
      } catch (error) {
        const mend = 'choose the file again: it was moved or changed since';
        throw new LowrankError(`cannot be read: ${messageOf(error)}`, { place: name, mend, cause: error });
      }
    },
    close: async () => {},
  };
}

/** A file behind HTTP, of which only what is read is fetched. `init` brings headers, for instance. */
export async function openUrl(url: string, init: RequestInit = {}): Promise<FileSource> {
  const first = await fetchRange(url, 0, 1, init);
  await first.body?.cancel();
  const size = totalOf(first);
  if (size === undefined) {
    const mend = 'download the file and open it from the disk';
    throw new LowrankError('the server does not serve parts of this file', { place: url, expected: 'status 206 with Content-Range', mend });
  }
  return {
    name: url,
    size,
    async read(offset, length) {
      checkRange(url, offset, length, size);
      if (length === 0) return new Uint8Array();
      const response = await fetchRange(url, offset, length, init);
      const bytes = new Uint8Array(await response.arrayBuffer());
      if (response.status === 206 && totalOf(response) === size && bytes.length === length) return bytes;
      const problem = `the server gave ${bytes.length} bytes with status ${response.status}`;
      throw new LowrankError(problem, { place: url, expected: `${length} of ${size} bytes`, mend: 'open the file again' });
    },
    close: async () => {},
  };
}

async function fetchRange(url: string, offset: number, length: number, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set('Range', `bytes=${offset}-${offset + length - 1}`);
  let response: Response;
  try {
    response = await fetch(url, { ...init, headers });
  } catch (error) {
    const mend = 'check the address and the connection; from a web page the server must allow it (CORS)';
    throw new LowrankError(`cannot be fetched: ${messageOf(error)}`, { place: url, mend, cause: error });
  }
  if (response.ok) return response;
  throw new LowrankError(`the server answered with status ${response.status}`, { place: url, mend: 'check the address' });
}

/** The whole file's size out of `bytes 0-0/1234`. */
function totalOf(response: Response): number | undefined {
  const total = Number(/\/(\d+)$/.exec(response.headers.get('content-range') ?? '')?.[1] ?? Number.NaN);
  return response.status === 206 && Number.isSafeInteger(total) ? total : undefined;
}

function checkRange(place: string, offset: number, length: number, size: number): void {
  if (offset + length > size)
    throw new LowrankError(`ends after ${size} bytes`, {
      place,
      expected: `${offset + length} bytes`,
      mend: 'take the whole file',
    });
}

/**
 * A model from files that a user has chosen: a .gguf file of one of the `layouts` or all its parts, or those of a folder in Hugging Face's
 * layout; `name` stands for them in messages.
 */
export async function openModelFromFiles(
  files: Iterable<File>,
  { layouts, name = 'the chosen files' }: { layouts: readonly GgufLayout[]; name?: string },
): Promise<ModelSource> {
  const byName = new Map(Array.from(files, (file) => [file.name, file]));
  const open = async (fileName: string) => {
    const file = byName.get(fileName);
    return file && blobSource(file);
  };
  const ggufs = [...byName.values()].filter((file) => file.name.endsWith('.gguf'));
  const single = ggufNames(byName.keys()).length === 1 && !byName.has('config.json');
  if (single) return openGguf(blobSource(ggufs[0]), layouts, { name, open });
  return openModelFiles({ name, open });
}
