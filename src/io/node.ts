import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LowrankError } from '../util/errors.js';
import type { Checkpoint } from './checkpoint.js';
import { openGguf } from './gguf-model.js';
import { type ModelSource, openModelFiles } from './model-source.js';
import { openFile } from './node/files.js';
import { openSafetensors } from './safetensors-shards.js';
import type { NamedFiles } from './source.js';

export { openFile, writeChunks, writeText } from './node/files.js';
export { localFolder } from './node/folder.js';

export interface OpenModelOptions {
  /** Branch, tag or commit on the hub; default `main`. */
  revision?: string;
  /** Called while files are downloaded, with bytes. */
  onProgress?: (progress: { file: string; done: number; total: number }) => void;
}

/** Opens a model: a folder in Hugging Face's layout, a .gguf file, or the id of a model on the hub, which is downloaded into the cache. */
export async function openModel(spec: string, _options: OpenModelOptions = {}): Promise<ModelSource> {
  const stats = await stat(spec).catch(() => undefined);
  if (stats?.isDirectory()) return openModelFiles(localFiles(spec));
  if (stats || spec.endsWith('.gguf')) return openGguf(await openFile(spec));
  throw new LowrankError('there is no such folder', { place: spec, mend: 'check the path' });
}

/** The weights of a folder: `<baseName>.safetensors`, or the shards that `<baseName>.safetensors.index.json` lists. */
export function openCheckpoint(dir: string, baseName = 'model'): Promise<Checkpoint> {
  return openSafetensors(localFiles(dir), baseName);
}

/** The files of a local folder. */
export function localFiles(dir: string): NamedFiles {
  return {
    name: dir,
    open: async (name) => {
      const path = join(dir, name);
      return (await stat(path).catch(() => undefined)) ? openFile(path) : undefined;
    },
  };
}
