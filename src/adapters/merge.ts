import { empty, fromArray, type Tensor } from '../core/tensor.js';
import type { Checkpoint, StoredTensor } from '../io/checkpoint.js';
import { asStored, bytesAs, inFileOrder, type ModelToWrite, type PlainType, plainType } from '../io/model-folder.js';
import type { TensorToWrite } from '../io/safetensors.js';
import type { ModuleAdapter } from '../nn/layers.js';
import { textConfigOf } from '../util/text-config.js';
import type { Adapter } from './adapter.js';

/**
 * Merges an adapter into its base: each weight with its update in f32, rounded once to the dtype that the base stores. A tied head that was
 * trained, or whose embedding was, becomes a tensor of its own and the config says so. Without an adapter the base is written as it is.
 */
export function mergeAdapter(adapter: Adapter, checkpoint: Checkpoint): ModelToWrite {
  const { model, slots: layers } = adapter;
  const { backend, paths } = model;
  const config: Record<string, unknown> = { ...model.config };
  const replaced = new Map(adapter.replacements.map(({ path, key, trained }) => [`${path}.${key}`, trained]));
  const [head, embedding] = [`${paths.head}.weight`, `${paths.embedding}.weight`];
  const changed = [paths.head, paths.embedding].some((path) => layers.has(path) || replaced.has(`${path}.weight`));
  const untie = model.tied && changed;
  if (untie) config.tie_word_embeddings = false;
  if (untie && model.config.text_config) config.text_config = { ...textConfigOf(model.config), tie_word_embeddings: false };
  const tensors: TensorToWrite[] = [];
  const add = (name: string, stored: StoredTensor) => {
    const { shape } = stored;
    const dtype = plainType(stored.dtype);
    const layer = name.endsWith('.weight') ? layers.get(name.slice(0, -'.weight'.length)) : undefined;
    const trained = replaced.get(name);
    const weight = async () => trained ?? floats(await stored.readAs('f32'));
    const floats = (bytes: Uint8Array) =>
      fromArray(backend, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4), shape, 'f32', 'workspace');
    const data =
      layer || trained ? async () => mergedBytes(await weight(), trained !== undefined, layer, dtype) : () => stored.readAs(dtype);
    tensors.push(inFileOrder({ name, dtype: dtype.toUpperCase(), shape, data }, stored));
  };
  for (const [name, stored] of checkpoint.tensors) if (name !== head || !model.tied) add(name, stored);
  const base = checkpoint.tensors.get(embedding);
  if (untie && base) add(head, { ...base, name: head });
  return { tensors: [...tensors, ...(checkpoint.others ?? []).map(asStored)], config };
}

/** The bytes of a weight f32 with a layer's update; `kept`: the weight is not to be changed or freed. */
async function mergedBytes(weight: Tensor, kept: boolean, layer: ModuleAdapter | undefined, dtype: PlainType): Promise<Uint8Array> {
  const sum = kept && layer ? empty(weight.backend, weight.shape, 'f32', 'workspace') : weight;
  try {
    if (sum !== weight) weight.backend.run('cast', { x: weight }, { out: sum }, {});
    layer?.merge(sum);
    return await bytesAs(sum, dtype);
  } finally {
    if (sum !== weight || !kept) sum.dispose();
  }
}
