import { existsSync, realpathSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import type { ModelSource } from '../io/model-source.js';
import { localFolder } from '../io/node/folder.js';
import * as io from '../io/node.js';
import { familyOf, ggufLayouts } from '../models/families.js';
import { withModelNames } from '../models/names.js';
import { LowrankError } from '../util/errors.js';
import type { Host } from './host.js';
import { parseRecipe, type Recipe } from './recipe.js';

export type OpenModelOptions = Omit<io.OpenModelOptions, 'layouts'>;

/** Opens a model: a folder in Hugging Face's layout, a .gguf file, or the id of a model on the hub, which is downloaded into the cache. */
export async function openModel(spec: string, options: OpenModelOptions = {}): Promise<ModelSource> {
  return withModelNames(await io.openModel(spec, { ...options, layouts: ggufLayouts() }));
}

/** What a model that `openModel` would open says besides its weights, which of a model on the hub are not downloaded. */
export function openModelTexts(spec: string, options: OpenModelOptions = {}): Promise<io.KnownTexts> {
  return io.openModelTexts(spec, { ...options, layouts: ggufLayouts() });
}

/** Node's part of a run: local files, the hub and its cache, the machine's memory. */
export const nodeHost: Host = {
  openModel: (name, { near, ...options } = {}) =>
    openModel(beside(name, near) ?? name, { ...options, check: (model) => familyOf(model.config, model.name) }),
  openBytes: async (path, what, { near } = {}) => {
    const found = beside(path, near) ?? io.homePath(path);
    return { path: found, ...(await explained(found, what, () => io.openBytes(found))) };
  },
  openRowWorkers: (tokenizer, template, most) => io.openRowWorkers(tokenizer, template, Math.min(most, availableParallelism())),
  writeText: (path, text) => localFolder(dirname(path)).writeText(basename(path), text),
  folder: localFolder,
  isSame: (a, b) => realPath(a) === realPath(b),
  quantizedBases: () => localFolder(quantizedFolder()),
  machine: () => {
    const limit = process.constrainedMemory?.() || Number.POSITIVE_INFINITY;
    return {
      memory: Math.min(totalmem(), limit),
      free: Math.min(freemem(), limit),
      threads: availableParallelism(),
      resident: process.memoryUsage.rss(),
      peak: process.resourceUsage().maxRSS * 1024,
    };
  },
};

/** Where a path leads to, links followed as far as there are any. */
function realPath(written: string): string {
  const path = resolve(io.homePath(written));
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** Where bases that were quantised to be streamed are kept. */
export const quantizedFolder = (): string => join(io.cacheFolder(), 'lowrank', 'quantized');

/** Reads a recipe's file; `overrides` as `parseRecipe` takes them. */
export async function readRecipe(path: string, overrides: readonly string[] = []): Promise<Recipe> {
  return parseRecipe(await readTextFile(path, 'a recipe'), path, overrides);
}

/** A path as it was written, from the folder `near` or from the current one, whichever exists; `~` is the user's home. */
export function beside(written: string, near = '.'): string | undefined {
  const path = io.homePath(written);
  if (isAbsolute(path)) return existsSync(path) ? path : undefined;
  return [join(near, path), path].find((candidate) => existsSync(candidate));
}

async function readTextFile(written: string, what: string): Promise<string> {
  const path = io.homePath(written);
  const content = await explained(path, what, () => readFile(path));
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(content);
  } catch {
    throw new LowrankError('the text is not UTF-8', { place: path, mend: 'convert the file to UTF-8' });
  }
}

/** Reads a file; where that fails, the error says why and what it was to be. */
async function explained<T>(path: string, what: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const problem = code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'is a folder' : `cannot be read (${code})`;
    throw new LowrankError(problem, {
      place: path,
      expected: what,
      mend: `check the path; the current folder is ${resolve('.')}`,
      cause: error,
    });
  }
}
