import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import type { Adapter } from '../adapters/adapter.js';
import { adapterConfigFile, noAdapter, openAdapter } from '../adapters/folder.js';
import type { Backend } from '../core/backend.js';
import { openBackend } from '../core/device.js';
import { type Row, readRows } from '../data/rows.js';
import type { ModelSource } from '../io/model-source.js';
import { localFolder } from '../io/node/folder.js';
import { type LoadOptions, loadModel } from '../models/load.js';
import { openTextCodec, type TextCodec, type TextModel } from '../models/text-model.js';
import { openModel } from '../runs/node.js';
import type { DatasetRows } from '../train/data.js';
import { parseRecipe, type Recipe, type RecipeDataset } from '../train/recipe.js';
import { LowrankError } from '../util/errors.js';
import { isObject, parseJson } from '../util/json.js';
import { bytes, type Terminal } from './console.js';
import { interruptible } from './interrupt.js';
import { type Streaming, streamedSource } from './streaming.js';

/** Options that every command with a model has. */
export interface ModelOptions extends Partial<Omit<LoadOptions, 'onProgress' | 'stream'>> {
  device?: string;
  streaming?: Streaming;
}

/** A model ready to be used, with what it was made from. */
export interface Session {
  backend: Backend;
  source: ModelSource;
  text: TextModel;
  close(): Promise<void>;
}

/** Finds a model by id, folder or .gguf file, showing the progress of a download. */
export async function findModel(
  terminal: Terminal,
  name: string,
  options: { revision?: string; near?: string } = {},
): Promise<ModelSource> {
  const onProgress = ({ file, done, total }: { file: string; done: number; total: number }) =>
    terminal.bar(total === 0 ? 1 : done / total, `${file}  ${bytes(done)} of ${bytes(total)}`);
  const source = await openModel(beside(name, options.near) ?? name, { revision: options.revision, onProgress });
  terminal.clearBar();
  return source;
}

/** The tokenizer and template of a model; a model without a usable one is closed. */
export function codecOf(source: ModelSource, recipe?: Recipe): TextCodec {
  return openTextCodec(source, recipe?.chat_template_jinja);
}

let warned = false;

/** Opens the named device, or the fastest that is installed; says once where that is a slow one. */
export function openDevice(terminal: Terminal, name: string | undefined): Promise<Backend> {
  return openBackend(name, (message) => {
    if (!warned) terminal.warn(message);
    warned = true;
  });
}

/** Opens the device and puts the model's weights on it; Ctrl-C gives up. */
export async function openSession(terminal: Terminal, source: ModelSource, codec: TextCodec, options: ModelOptions): Promise<Session> {
  const backend = await openDevice(terminal, options.device);
  let streamed: ModelSource | undefined;
  const close = async () => {
    await backend.close();
    if (streamed !== source) await streamed?.checkpoint.close();
    await source.checkpoint.close();
  };
  try {
    const { device: _, streaming, precision = 'bf16', ...rest } = options;
    const load = { precision, ...rest };
    const { model, dispose } = await interruptible(terminal, 'stopping', async (signal) => {
      const onProgress = (done: number, total: number) => {
        signal.throwIfAborted();
        terminal.bar(done / total, `loading ${source.name}`);
      };
      streamed = streaming && (await streamedSource(terminal, source, backend, streaming, load, signal));
      return loadModel(streamed ?? source, backend, { ...load, stream: streamed !== undefined, onProgress });
    });
    terminal.clearBar();
    const closeAll = () => {
      dispose();
      return close();
    };
    return { backend, source, text: { ...codec, model }, close: closeAll };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Attaches an adapter's folder to a model and says where it was trained on another base. */
export async function attachAdapter(terminal: Terminal, session: Session, path: string): Promise<Adapter> {
  const { adapter, identity } = await openAdapter(localFolder(path), session.text.model);
  if (identity !== undefined && identity !== session.source.identity) {
    terminal.warn(`the adapter ${path} was trained on another base than ${session.source.name}: answers may be poor`);
  }
  return adapter;
}

/** The base model that an adapter's folder names. */
export async function baseOfAdapter(path: string): Promise<string> {
  const place = join(path, adapterConfigFile);
  const text = await localFolder(path).readText(adapterConfigFile);
  if (text === undefined) throw await noAdapter(localFolder(path));
  const config = parseJson(text, place);
  if (isObject(config) && typeof config.base_model_name_or_path === 'string' && config.base_model_name_or_path !== '') {
    return config.base_model_name_or_path;
  }
  throw new LowrankError('names no base model', { place, mend: 'name it with --model' });
}

/** Reads a recipe's file. */
export async function readRecipe(path: string, overrides: readonly string[]): Promise<Recipe> {
  return parseRecipe(await readTextFile(path, 'a recipe'), path, overrides);
}

/** Reads the rows of a recipe's data sets. */
export function readDatasets(recipePath: string, datasets: readonly RecipeDataset[]): Promise<DatasetRows[]> {
  return Promise.all(
    datasets.map(async (dataset) => {
      const path = beside(dataset.path, dirname(recipePath)) ?? dataset.path;
      if (!/\.jsonl?$/.test(path)) {
        throw new LowrankError('not a data set that can be read', {
          place: `${recipePath}: ${dataset.path}`,
          expected: 'a .jsonl or .json file',
          mend: 'convert it, or correct the path',
        });
      }
      return { dataset, rows: await readRowsFile(path) };
    }),
  );
}

export async function readRowsFile(path: string): Promise<Row[]> {
  return readRows(await readTextFile(path, 'a data set'), path);
}

/** A path as it was written, from the folder `near` or from the current one, whichever exists. */
export function beside(path: string, near = '.'): string | undefined {
  if (isAbsolute(path)) return existsSync(path) ? path : undefined;
  return [join(near, path), path].find((candidate) => existsSync(candidate));
}

/** Texts longer than this do not fit a string. */
const maxTextBytes = 0x1fff_ffe8;

async function readTextFile(path: string, what: string): Promise<string> {
  try {
    const content = await readFile(path);
    if (content.length > maxTextBytes)
      throw new LowrankError(`${bytes(content.length)} is too large for one file`, { place: path, mend: 'split it' });
    return new TextDecoder('utf-8', { fatal: true }).decode(content);
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    if (error instanceof TypeError) throw new LowrankError('the text is not UTF-8', { place: path, mend: 'convert the file to UTF-8' });
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
