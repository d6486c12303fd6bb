import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LowrankError } from '../util/errors.js';
import { type JsonObject, parseJsonObject } from '../util/json.js';
import type { Checkpoint } from './checkpoint.js';
import type { GgufLayout } from './gguf-layout.js';
import { openGguf } from './gguf-model.js';
import { parseHubId } from './hub.js';
import { type ModelSource, openModelFiles } from './model-source.js';
import { openFile } from './node/files.js';
import { type DownloadProgress, downloadModel } from './node/hub.js';
import { openSafetensors } from './safetensors-shards.js';
import { type NamedFiles, readText } from './source.js';

export { openFile, writeChunks, writeText } from './node/files.js';
export { localFolder } from './node/folder.js';
export { cachedModel, cacheFolder } from './node/hub.js';

export interface OpenModelOptions {
  /** The families that are read from GGUF. */
  layouts: readonly GgufLayout[];
  /** Branch, tag or commit on the hub; default `main`. */
  revision?: string;
  /** Called while files are downloaded, with bytes. */
  onProgress?: DownloadProgress;
  /** Ends a download; the next attempt goes on where it ended. */
  signal?: AbortSignal;
}

/** Opens a model: a folder in Hugging Face's layout, a .gguf file, or the id of a model on the hub, which is downloaded into the cache. */
export async function openModel(spec: string, { layouts, revision, ...options }: OpenModelOptions): Promise<ModelSource> {
  const stats = await stat(spec).catch(() => undefined);
  if (stats?.isDirectory()) return openModelFiles(localFiles(spec));
  if (stats) return openGguf(await openFile(spec), layouts);
  const hubId = parseHubId(spec);
  if (!hubId) {
    const expected = 'a folder, a .gguf file, or an id of the hub such as owner/name or owner/name/file.gguf';
    throw new LowrankError('there is no such file or folder', { place: spec, expected, mend: 'check the path' });
  }
  const { dir, commit, gguf } = await downloadModel(hubId, revision, options);
  if (gguf === undefined) return openModelFiles({ ...localFiles(dir), name: spec }, `${hubId.id}@${commit}`);
  return { ...(await openGguf(await openFile(join(dir, gguf)), layouts)), name: spec, identity: `${hubId.id}/${gguf}@${commit}` };
}

/** The config.json of a model that `openModel` would open; of a model on the hub nothing else is downloaded, unless it is a .gguf file. */
export async function readModelConfig(spec: string, options: OpenModelOptions): Promise<JsonObject> {
  const hubId = (await stat(spec).catch(() => undefined)) ? undefined : parseHubId(spec);
  let folder = spec;
  if (hubId && hubId.gguf === undefined) {
    const { dir, gguf } = await downloadModel(hubId, options.revision, options, (file) => !file.endsWith('.safetensors'));
    if (gguf === undefined) folder = dir;
  }
  const text = await readText(localFiles(folder), 'config.json').catch(() => undefined);
  if (text !== undefined) return parseJsonObject(text, `${spec}/config.json`);
  const { config, checkpoint } = await openModel(spec, options);
  await checkpoint.close();
  return config;
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
