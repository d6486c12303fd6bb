import type { ModelSource } from '../io/model-source.js';
import * as io from '../io/node.js';
import { ggufLayouts } from '../models/families.js';
import type { JsonObject } from '../util/json.js';

export type OpenModelOptions = Omit<io.OpenModelOptions, 'layouts'>;

/** Opens a model: a folder in Hugging Face's layout, a .gguf file, or the id of a model on the hub, which is downloaded into the cache. */
export function openModel(spec: string, options: OpenModelOptions = {}): Promise<ModelSource> {
  return io.openModel(spec, { ...options, layouts: ggufLayouts() });
}

/** The config.json of a model that `openModel` would open; of a model on the hub nothing else is downloaded, unless it is a .gguf file. */
export function readModelConfig(spec: string, options: OpenModelOptions = {}): Promise<JsonObject> {
  return io.readModelConfig(spec, { ...options, layouts: ggufLayouts() });
}
