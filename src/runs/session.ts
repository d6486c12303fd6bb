import type { Adapter } from '../adapters/adapter.js';
import { adapterConfigFile, noAdapter, openAdapter } from '../adapters/folder.js';
import type { Backend } from '../core/backend.js';
import { openBackend } from '../core/device.js';
import type { Folder } from '../io/folder.js';
import type { ModelSource } from '../io/model-source.js';
import { type LoadOptions, loadModel } from '../models/load.js';
import type { TextCodec, TextModel } from '../models/text-model.js';
import { LowrankError } from '../util/errors.js';
import { parseJsonObject } from '../util/json.js';
import { readContract } from './contract.js';
import type { SessionEvent } from './events.js';
import type { Host } from './host.js';
import { type Streaming, streamedSource } from './streaming.js';

/** Where a session is held, who hears of it and what ends its preparation: a signal that fires makes it throw the signal's reason. */
export interface SessionContext {
  host: Host;
  onEvent?: (event: SessionEvent) => void;
  signal?: AbortSignal;
}

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

/** Finds a model by id, folder or .gguf file; relative paths begin at `near` or at the current folder. */
export async function findModel(
  name: string,
  { host, onEvent, signal }: SessionContext,
  options: { revision?: string; near?: string } = {},
): Promise<ModelSource> {
  const onProgress = ({ file, done, total }: { file: string; done: number; total: number }) =>
    onEvent?.({ type: 'download', file, done_bytes: done, total_bytes: total });
  return host.openModel(name, { ...options, onProgress, signal });
}

/** Opens the named device, or the fastest that is installed; where that is a slow one it warns. */
export async function openDevice(name: string | undefined, { onEvent }: SessionContext): Promise<Backend> {
  const backend = await openBackend(name, (message) => onEvent?.({ type: 'warning', message }));
  onEvent?.({ type: 'device', name: backend.name, description: backend.description });
  return backend;
}

/** Opens the device and puts the model's weights on it. The source belongs to the session from now on, also where this fails. */
export async function openSession(
  source: ModelSource,
  codec: TextCodec,
  { device, streaming, precision = 'bf16', ...rest }: ModelOptions,
  context: SessionContext,
): Promise<Session> {
  const { onEvent, signal } = context;
  let backend: Backend | undefined;
  let streamed: ModelSource | undefined;
  const close = async () => {
    await backend?.close();
    if (streamed !== source) await streamed?.checkpoint.close();
    await source.checkpoint.close();
  };
  try {
    backend = await openDevice(device, context);
    const load = { precision, ...rest };
    const onProgress = (done: number, total: number) => {
      signal?.throwIfAborted();
      onEvent?.({ type: 'loading', model: source.name, done, total });
    };
    streamed = streaming && (await streamedSource(source, backend, streaming, load, context));
    const { model, dispose } = await loadModel(streamed ?? source, backend, { ...load, stream: streamed !== undefined, onProgress });
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

/** Attaches an adapter's folder to a model; warns where it was trained on another base. */
export async function attachAdapter({ source, text }: Session, folder: Folder, { onEvent }: SessionContext): Promise<Adapter> {
  const { adapter, identity } = await openAdapter(folder, text.model);
  const trained = (await readContract(folder))?.base.identity ?? identity;
  if (trained !== undefined && trained !== source.identity) {
    const message = `the adapter ${folder.path} was trained on another base than ${source.name}: answers may be poor`;
    onEvent?.({ type: 'warning', message });
  }
  return adapter;
}

/**
 * Finds the base that an adapter's folder names: by its path, which may begin at the adapter, or on the hub, at the commit that was trained
 * on where the adapter says which.
 */
export async function findBase(folder: Folder, context: SessionContext): Promise<ModelSource> {
  const place = `${folder.path}/${adapterConfigFile}`;
  const text = await folder.readText(adapterConfigFile);
  if (text === undefined) throw await noAdapter(folder);
  const config = parseJsonObject(text, place);
  const { base_model_name_or_path: name } = config;
  if (typeof name !== 'string' || name === '') throw new LowrankError('names no base model', { place, mend: 'name it with --model' });
  const base = (await readContract(folder))?.base;
  const commit = base?.name === name ? base.revision : config.revision;
  try {
    return await findModel(name, context, { near: folder.path, revision: typeof commit === 'string' ? commit : undefined });
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    throw new LowrankError(`the adapter’s base ${name} cannot be opened: ${error.problem}`, {
      ...error,
      place: error.place === name ? folder.path : `${folder.path}: ${error.place}`,
      mend: `${error.mend}; or name the base with --model`,
      cause: error,
    });
  }
}
