import { dirname } from 'node:path';
import type { Adapter } from '../adapters/adapter.js';
import type { ModelSource } from '../io/model-source.js';
import { openTextCodec, type TextCodec } from '../models/text-model.js';
import { openAdapterCodec } from '../runs/contract.js';
import { type DatasetRows, openDatasets as openAll } from '../runs/data.js';
import { nodeHost } from '../runs/node.js';
import type { RecipeDataset } from '../runs/recipe.js';
import * as runs from '../runs/session.js';
import type { Terminal } from './console.js';
import { interruptible } from './interrupt.js';
import { sessionListener } from './run-listener.js';

// What a terminal adds to runs/session.ts: Node's files, a listener, Ctrl-C.

export function contextOf(terminal: Terminal): runs.SessionContext {
  return { host: nodeHost, onEvent: sessionListener(terminal) };
}

/** Finds a model by id, folder or .gguf file, showing the progress of a download. */
export function findModel(terminal: Terminal, name: string, options: { revision?: string; near?: string } = {}): Promise<ModelSource> {
  return runs.findModel(name, contextOf(terminal), options);
}

/** Finds the base that an adapter's folder names. */
export function findBase(terminal: Terminal, adapter: string): Promise<ModelSource> {
  return runs.findBase(nodeHost.folder(adapter), contextOf(terminal));
}

/** The codec of a model alone or with an adapter, framing prompts as was trained. `jinja` is a template for where neither has one. */
export async function codecOf(source: ModelSource, adapter?: string, jinja?: string): Promise<TextCodec> {
  if (adapter !== undefined) return openAdapterCodec(source, nodeHost.folder(adapter), jinja);
  return openTextCodec(source, { jinja: source.contract?.chat_template ?? jinja });
}

/** Opens the device and puts the model's weights on it; Ctrl-C gives up. */
export function openSession(terminal: Terminal, source: ModelSource, codec: TextCodec, options: runs.ModelOptions): Promise<runs.Session> {
  return interruptible(terminal, 'stopping', (signal) => runs.openSession(source, codec, options, { ...contextOf(terminal), signal }));
}

/** Attaches an adapter's folder to a model and says where it was trained on another base. */
export function attachAdapter(terminal: Terminal, session: runs.Session, path: string): Promise<Adapter> {
  return runs.attachAdapter(session, nodeHost.folder(path), contextOf(terminal));
}

/** Finds the data sets of a recipe’s file. */
export function openDatasets(recipePath: string, datasets: readonly RecipeDataset[]): Promise<DatasetRows[]> {
  return openAll(nodeHost, datasets, { name: recipePath, near: dirname(recipePath) });
}
