import type { FileSource } from './source.js';

/** A folder of results. Whatever is written appears whole or not at all. */
export interface Folder {
  /** For messages. */
  readonly path: string;
  /** Writes a text as UTF-8, in place of an earlier one. */
  writeText(name: string, text: string): Promise<void>;
  /** Writes a file piece by piece. */
  write(name: string, chunks: AsyncIterable<Uint8Array>): Promise<void>;
  /** Adds one line to a file. */
  append(name: string, line: string): Promise<void>;
  /** Throws a LowrankError where no line can be added to a file of that name; where there is none, none is made. */
  checkAppendable(name: string): Promise<void>;
  /** The text of a file, or undefined where there is none. */
  readText(name: string): Promise<string | undefined>;
  /** A file for reading piece by piece; throws a LowrankError where there is none. */
  open(name: string): Promise<FileSource>;
  /** Names of files and folders; none where the folder does not exist. */
  list(): Promise<string[]>;
  /**
   * Makes this run the only one that writes the folder, until what it resolves to is called. Throws at once, with a LowrankError that says
   * who holds it, where another run does. Leaves nothing behind.
   */
  lock(): Promise<() => Promise<void>>;
  /** Removes a file or a folder with all in it, if it is there; nobody sees half of it. */
  remove(name: string): Promise<void>;
  /** A folder inside this one. */
  folder(name: string): Folder;
  /** Fills a new inner folder that appears, in place of one of the same name, when `fill` is done. */
  create(name: string, fill: (folder: Folder) => Promise<void>): Promise<void>;
  /**
   * Fills a new folder and, when `fill` is done, moves its files here in place of those that `old` matches. `key`, the file without which
   * readers take the rest for nothing, goes first and comes last, so that nobody reads old and new files together.
   */
  publish(key: string, old: RegExp, fill: (folder: Folder) => Promise<void>): Promise<void>;
}
