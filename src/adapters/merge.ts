import { empty, fromArray, type Tensor } from '../core/tensor.js';
import type { Checkpoint } from '../io/checkpoint.js';
import { bytesAs, type ModelToWrite, type PlainType, plainType } from '../io/model-folder.js';
import type { TensorToWrite } from '../io/safetensors.js';
import type { LoraAdapter } from './lora.js';

/**
 * Merges an adapter into its base: W + scale·B·A in f32, rounded once to the dtype that the base stores. A tied head that was trained, or
 * whose embedding was, becomes a tensor of its own and the config says so. Without an adapter the base is written as it is.
 */
export function mergeAdapter(adapter: LoraAdapter, checkpoint: Checkpoint): ModelToWrite {
  const { model } = adapter;
  const config: Record<string, unknown> = { ...model.config };
  const replaced = new Map(adapter.replacements.map(({ path, key, trained }) => [`${path}.${key}`, trained]));
  const head = `${model.headPath}.weight`;
  const embedding = [...checkpoint.tensors.keys()].find((name) => name.endsWith('embed_tokens.weight'));
  const untie =
    model.tied && (adapter.layers.has(model.headPath) || replaced.has(head) || (embedding !== undefined && replaced.has(embedding)));
  if (untie) config.tie_word_embeddings = false;
  const tensors: TensorToWrite[] = [];
  for (const [name, stored] of checkpoint.tensors) {
    if (name === head && model.tied) continue;
    const dtype = plainType(stored.dtype);
    const path = name.replace(/\.(weight|bias)$/, '');
    const layer = name.endsWith('.weight') ? adapter.layers.get(path) : undefined;
    const trained = replaced.get(name);
    const data =
      layer || trained
        ? () => mergedBytes(adapter, () => stored.readAs('f32'), stored.shape, dtype, layer, trained)
        : () => stored.readAs(dtype);
    tensors.push({ name, dtype: dtype.toUpperCase(), shape: stored.shape, data });
  }
  const base = embedding === undefined ? undefined : checkpoint.tensors.get(embedding);
  if (untie && base) {
    const dtype = plainType(base.dtype);
    const data = () =>
      mergedBytes(adapter, () => base.readAs('f32'), base.shape, dtype, adapter.layers.get(model.headPath), replaced.get(head));
    tensors.push({ name: head, dtype: dtype.toUpperCase(), shape: base.shape, data });
  }
  return { tensors, config };
}

async function mergedBytes(
  { model: { backend } }: LoraAdapter,
  read: () => Promise<Uint8Array>,
  shape: readonly number[],
  dtype: PlainType,
  layer: { A: Tensor; B: Tensor; scale: number } | undefined,
  trained: Tensor | undefined,
): Promise<Uint8Array> {
  const made: Tensor[] = [];
  const keep = (tensor: Tensor) => {
    made.push(tensor);
    return tensor;
  };
  try {
    let weight = trained;
    if (!weight) {
      const bytes = await read();
      weight = keep(fromArray(backend, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4), shape, 'f32', 'workspace'));
    }
    if (layer) {
      const sum = keep(empty(backend, shape, 'f32', 'workspace'));
      backend.run('cast', { x: weight }, { out: sum }, {});
      backend.run('matmul', { a: layer.B, b: layer.A }, { out: sum }, { transposeA: 0, transposeB: 0, alpha: layer.scale, accumulate: 1 });
      weight = sum;
    }
    return await bytesAs(weight, dtype);
  } finally {
    for (const tensor of made) tensor.dispose();
  }
}
