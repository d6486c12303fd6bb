import { LowrankError } from '../util/errors.js';

/** A file that can be read piece by piece: on disk, in a browser's Blob, behind HTTP. */
export interface FileSource {
  /** For messages. */
  readonly name: string;
  /** In bytes. */
  readonly size: number;
  /** On a local disk, so that a device may map it. */
  readonly path?: string;
  /** Exactly `length` bytes from `offset`; an error where the file is shorter. */
  read(offset: number, length: number): Promise<Uint8Array>;
  /** Gives the file back; reading afterwards is an error. */
  close(): Promise<void>;
}

/** Files by name: a folder on disk, or what a user dropped on a page. */
export interface NamedFiles {
  /** For messages. */
  readonly name: string;
  /** Undefined where there is no such file. */
  open(name: string): Promise<FileSource | undefined>;
}

/** No text file of a model is larger; the largest tokenizers have 35 MB. */
const maxTextBytes = 512_000_000;

/** The whole of a UTF-8 file, or undefined where there is none. */
export async function readText(files: NamedFiles, name: string): Promise<string | undefined> {
  const file = await files.open(name);
  if (!file) return undefined;
  const place = `${files.name}/${name}`;
  try {
    if (file.size > maxTextBytes)
      throw new LowrankError(`${file.size} bytes long`, {
        place,
        expected: `at most ${maxTextBytes}`,
        mend: 'check that this is the right file',
      });
    return decodeUtf8(await file.read(0, file.size), place);
  } finally {
    await file.close();
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The text of UTF-8 bytes, a byte order mark included; anything else is an error at `place`. */
export function decodeUtf8(bytes: Uint8Array, place: string): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new LowrankError('not UTF-8', { place, mend: 'download or write the file again' });
  }
}
