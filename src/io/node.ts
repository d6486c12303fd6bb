import { readdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { LowrankError } from '../util/errors.js';
import type { Checkpoint } from './checkpoint.js';
import type { GgufLayout } from './gguf-layout.js';
import { openGguf } from './gguf-model.js';
import { ggufNames } from './gguf-split.js';
import { parseHubId } from './hub.js';
import { type ModelSource, type ModelTexts, openModelFiles, readModelConfig, readModelTexts } from './model-source.js';
import { homePath, openFile } from './node/files.js';
import { type DownloadProgress, downloadModel } from './node/hub.js';
import { openSafetensors } from './safetensors-shards.js';
import type { NamedFiles } from './source.js';

export { homePath, openBytes, openFile, writeChunks, writeText } from './node/files.js';
export { localFolder } from './node/folder.js';
export { cachedModel, cacheFolder } from './node/hub.js';
export { openRowWorkers } from './node/row-workers.js';
export { endWriting } from './node/temporary.js';

export interface OpenModelOptions {
  /** The families that are read from GGUF. */
  layouts: readonly GgufLayout[];
  /** Branch, tag or commit on the hub; default `main`. */
  revision?: string;
  /** Called while files are downloaded, with bytes. */
  onProgress?: DownloadProgress;
  /** Ends a download; the next attempt goes on where it ended. */
  signal?: AbortSignal;
  /** Sees what a model says before its weights are opened or downloaded; throws where they would be of no use. */
  check?: (model: Pick<ModelTexts, 'name' | 'config'>) => void;
}

/**
 * Opens a model: a folder in Hugging Face's layout or with a model in GGUF, a .gguf file, of a split model any, or the id of a model on the
 * hub, which is downloaded into the cache.
 */
export async function openModel(spec: string, { layouts, revision, check, ...options }: OpenModelOptions): Promise<ModelSource> {
  const local = homePath(spec);
  const stats = await stat(local).catch(() => undefined);
  if (stats) {
    const gguf = stats.isDirectory() ? await ggufOf(local) : local;
    const source = await (gguf === undefined ? openModelFiles(localFiles(local)) : openLocalGguf(gguf, layouts));
    check?.(source);
    return { ...source, path: resolve(local) };
  }
  const hubId = parseHubId(spec);
  if (!hubId) {
    const expected = 'a folder, a .gguf file, or an id of the hub such as owner/name or owner/name/file.gguf';
    throw new LowrankError('there is no such file or folder', { place: spec, expected, mend: 'check the path' });
  }
  if (check && hubId.gguf === undefined) check(await openModelTexts(spec, { layouts, revision, ...options }));
  const { dir, commit, gguf } = await downloadModel(hubId, revision, options);
  if (gguf === undefined) return { ...(await openModelFiles({ ...localFiles(dir), name: spec })), revision: commit };
  return { ...(await openLocalGguf(join(dir, gguf), layouts)), name: spec, revision: commit };
}

/** A .gguf file with those beside it, where it is a part of a split model. */
async function openLocalGguf(path: string, layouts: readonly GgufLayout[]): Promise<ModelSource> {
  return openGguf(await openFile(path), layouts, localFiles(dirname(path)));
}

/** The .gguf file, whole or the first part that is there, of a folder that holds one model in GGUF and none in Hugging Face's layout. */
async function ggufOf(dir: string): Promise<string | undefined> {
  const names = (await readdir(dir)).sort();
  const models = ggufNames(names);
  if (names.includes('config.json') || models.length === 0) return undefined;
  if (models.length === 1) return join(dir, names.find((name) => name.endsWith('.gguf')) as string);
  throw new LowrankError('holds several .gguf files', { place: dir, expected: 'the path of one', mend: `choose ${models.join(', ')}` });
}

/** What a model says without its weights: config.json at least. */
export type KnownTexts = Pick<ModelTexts, 'name' | 'config'> & Partial<ModelTexts>;

/**
 * What a model that `openModel` would open says besides its weights, which of a model on the hub are not downloaded, unless it is a .gguf
 * file. A folder may hold config.json alone.
 */
export async function openModelTexts(spec: string, options: OpenModelOptions): Promise<KnownTexts> {
  const local = homePath(spec);
  const stats = await stat(local).catch(() => undefined);
  const hubId = stats ? undefined : parseHubId(spec);
  let files = stats?.isDirectory() ? localFiles(local) : undefined;
  if (hubId && hubId.gguf === undefined) {
    const { dir, gguf } = await downloadModel(hubId, options.revision, options, (file) => !file.endsWith('.safetensors'));
    if (gguf === undefined) files = { ...localFiles(dir), name: spec };
  }
  if (files && !(stats && (await ggufOf(local)))) {
    const tokenizer = await files.open('tokenizer.json');
    await tokenizer?.close();
    return tokenizer ? readModelTexts(files) : { name: files.name, config: await readModelConfig(files) };
  }
  const { checkpoint, ...texts } = await openModel(spec, options);
  await checkpoint.close();
  return texts;
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
