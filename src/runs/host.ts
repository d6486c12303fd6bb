import type { ChatTemplate } from '../data/chat-template.js';
import type { RowWorkers } from '../data/prepare.js';
import type { Tokenizer } from '../data/tokenizer.js';
import type { Folder } from '../io/folder.js';
import type { ModelSource } from '../io/model-source.js';

/** The machine under a run. Sizes in bytes. */
export interface Machine {
  /** What a process may hold. */
  memory: number;
  /** Of that, what nothing else holds now. */
  free: number;
  threads: number;
  /** What this process holds now, and held at most. */
  resident: number;
  peak: number;
}

export interface FindOptions {
  /** Folder that relative paths begin at, where they lead to something from there; else they begin at the current folder. */
  near?: string;
}

export interface FindModelOptions extends FindOptions {
  revision?: string;
  onProgress?: (progress: { file: string; done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** A file, the path that it was found under and its size. */
export interface ReadableFile {
  path: string;
  bytes: number;
  read(): AsyncIterable<Uint8Array>;
}

/** What a run needs of where it runs. `runs/node.ts` has Node's; a web page brings its own, of the files that its user chose. */
export interface Host {
  /** A model by what `base_model` says. */
  openModel(name: string, options?: FindModelOptions): Promise<ModelSource>;
  /** A file that can be read from its beginning as often as one likes, piece by piece; `what` says in errors what was looked for. */
  openBytes(path: string, what: string, options?: FindOptions): Promise<ReadableFile>;
  /** Threads that turn rows into examples by this tokenizer and template, at most `most`; a page has none and does it itself. */
  openRowWorkers?(tokenizer: Tokenizer, template: ChatTemplate | undefined, most: number): Promise<RowWorkers>;
  /** Writes a text file as UTF-8, in place of an earlier one. */
  writeText(path: string, text: string): Promise<void>;
  /** A folder of results, which need not exist yet. */
  folder(path: string): Folder;
  /** Whether two paths are the same place. */
  isSame(a: string, b: string): boolean;
  /** Where bases that were quantised to be streamed are kept. */
  quantizedBases(): Folder;
  /** Memory and threads as they are now. */
  machine(): Machine;
}
