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

/** What a run needs of where it runs. `runs/node.ts` has Node's; a web page brings its own, of the files that its user chose. */
export interface Host {
  /** A model by what `base_model` says. */
  openModel(name: string, options?: FindModelOptions): Promise<ModelSource>;
  /** The whole of a text file, and the path it was found under; `what` says in errors what was looked for. */
  readText(path: string, what: string, options?: FindOptions): Promise<{ path: string; text: string }>;
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
