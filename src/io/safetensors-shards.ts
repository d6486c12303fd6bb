import { LowrankError } from '../util/errors.js';
import { isObject, type JsonObject, parseJsonObject } from '../util/json.js';
import type { Checkpoint, StoredTensor } from './checkpoint.js';
import type { Folder } from './folder.js';
import { byteLengthOf, encodeSafetensors, readSafetensors, type TensorToWrite } from './safetensors.js';
import { type NamedFiles, readText } from './source.js';

/**
 * The weights of a folder: `<base>.safetensors`, or the shards that `<base>.safetensors.index.json` lists: {metadata, weight_map: {tensor:
 * file}} (https://huggingface.co/docs/transformers/big_models). Every tensor must be where the index says, and no other may be there.
 */
export async function openSafetensors(files: NamedFiles, base = 'model'): Promise<Checkpoint> {
  const single = await files.open(`${base}.safetensors`);
  if (single) return readSafetensors(single);
  const indexName = `${base}.safetensors.index.json`;
  const text = await readText(files, indexName);
  if (text === undefined) {
    throw new LowrankError(`there is neither ${base}.safetensors nor ${indexName}`, {
      place: files.name,
      mend: 'convert weights of another format with save_pretrained(…, safe_serialization=True)',
    });
  }
  const place = `${files.name}/${indexName}`;
  const shards = parseIndex(parseJsonObject(text, place), place);
  const opened: Checkpoint[] = [];
  const close = async () => void (await Promise.all(opened.map((shard) => shard.close())));
  const tensors = new Map<string, StoredTensor>();
  try {
    for (const [file, names] of shards) {
      const source = await files.open(file);
      if (!source) throw new LowrankError(`the shard ${file} is missing`, { place, mend: 'download it' });
      const shard = await readSafetensors(source);
      opened.push(shard);
      collect(shard, names, tensors, { place, file });
    }
  } catch (error) {
    await close();
    throw error;
  }
  return { tensors, metadata: opened[0].metadata, close };
}

/** Tensor names by shard. */
function parseIndex(index: JsonObject, place: string): Map<string, Set<string>> {
  const map = index.weight_map;
  const mend = 'download or write the index again';
  if (!isObject(map) || Object.keys(map).length === 0) {
    throw new LowrankError('weight_map is not an object with entries', { place, expected: '{"weight_map": {tensor: file}}', mend });
  }
  const shards = new Map<string, Set<string>>();
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== 'string' || !/^[\w.-]+\.safetensors$/.test(file)) {
      const expected = 'the name of a .safetensors file in the same folder';
      throw new LowrankError(`tensor "${name}" lies in ${JSON.stringify(file)}`, { place, expected, mend });
    }
    let names = shards.get(file);
    if (!names) shards.set(file, (names = new Set()));
    names.add(name);
  }
  return shards;
}

function collect(shard: Checkpoint, names: Set<string>, into: Map<string, StoredTensor>, at: { place: string; file: string }): void {
  const mend = 'download the shards and the index again, all of the same revision';
  for (const name of names) {
    const tensor = shard.tensors.get(name);
    if (!tensor) throw new LowrankError(`tensor "${name}" is not in ${at.file}`, { place: at.place, mend });
    into.set(name, tensor);
  }
  for (const name of shard.tensors.keys()) {
    if (!names.has(name))
      throw new LowrankError(`${at.file} holds tensor "${name}", which the index does not map to it`, { place: at.place, mend });
  }
}

export interface CheckpointOptions {
  /** Stored in the header of each file; transformers asks for `{format: 'pt'}`. */
  metadata?: Record<string, string>;
  /** Bytes of tensors per file (default 5 GB); a larger tensor gets a file of its own. */
  maxShardBytes?: number;
  /** `model` (default) or `adapter_model`. */
  base?: string;
}

/** Writes `<base>.safetensors`, or shards `<base>-00001-of-0000N.safetensors` and, last, their index. One tensor is in memory at a time. */
export async function writeCheckpoint(folder: Folder, tensors: readonly TensorToWrite[], options: CheckpointOptions = {}): Promise<void> {
  const { metadata = { format: 'pt' }, maxShardBytes = 5e9, base = 'model' } = options;
  const shards = shardsOf(tensors, maxShardBytes);
  if (shards.length === 1) return folder.write(`${base}.safetensors`, encodeSafetensors(tensors, metadata));
  const digits = (n: number) => String(n).padStart(5, '0');
  const weightMap: Record<string, string> = {};
  let totalSize = 0;
  for (const [i, shard] of shards.entries()) {
    const file = `${base}-${digits(i + 1)}-of-${digits(shards.length)}.safetensors`;
    await folder.write(file, encodeSafetensors(shard, metadata));
    for (const { name, dtype, shape } of shard) {
      weightMap[name] = file;
      totalSize += byteLengthOf(dtype, shape);
    }
  }
  const index = { metadata: { total_size: totalSize }, weight_map: weightMap };
  await folder.writeText(`${base}.safetensors.index.json`, `${JSON.stringify(index, null, 2)}\n`);
}

function shardsOf(tensors: readonly TensorToWrite[], maxShardBytes: number): TensorToWrite[][] {
  const shards: TensorToWrite[][] = [[]];
  let filled = 0;
  for (const tensor of tensors) {
    const bytes = byteLengthOf(tensor.dtype, tensor.shape);
    if (filled > 0 && filled + bytes > maxShardBytes) {
      shards.push([]);
      filled = 0;
    }
    shards[shards.length - 1].push(tensor);
    filled += bytes;
  }
  return shards;
}
