import { LowrankError } from '../util/errors.js';
import type { JsonObject } from '../util/json.js';
import { type Checkpoint, convertBytes, decodeBytes, decodeNumbers, type StoredTensor, withReadAs } from './checkpoint.js';
import type { GgufFile, GgufTensor } from './gguf.js';
import { ggufConfig } from './gguf-config.js';
import type { GgufLayout } from './gguf-layout.js';
import { GgufMetadata } from './gguf-metadata.js';
import { readGgufParts } from './gguf-split.js';
import { ggufTokenizer } from './gguf-tokenizer.js';
import { fingerprint, type ModelSource } from './model-source.js';
import type { FileSource, NamedFiles } from './source.js';

/**
 * A model out of one GGUF file, or out of the parts that it was split into, of which `file` is any and the others are among its
 * `siblings`: config.json and the tokenizer's files are rebuilt from its metadata, tensors get Hugging Face's names and row order, and are
 * decoded as they are read. Closes the files where it is a model of none of the `layouts`.
 */
export async function openGguf(file: FileSource, layouts: readonly GgufLayout[], siblings?: NamedFiles): Promise<ModelSource> {
  const { files, ...gguf } = await readGgufParts(file, siblings);
  try {
    const metadata = new GgufMetadata(file.name, gguf.metadata);
    const layout = layoutOf(metadata, layouts);
    const config = await ggufConfig(gguf, metadata, layout);
    const tokenizer = ggufTokenizer(metadata);
    checkVocabulary(gguf, metadata);
    const checkpoint = { ...ggufCheckpoint(gguf, config, layout), close: () => closeAll(files) };
    const identity = await fingerprint(
      files.sort((a, b) => (a.name < b.name ? -1 : 1)),
      JSON.stringify([config, tokenizer.tokenizerJson]),
    );
    return { name: file.name, config, tokenizer, checkpoint, identity };
  } catch (error) {
    await closeAll(files);
    throw error;
  }
}

async function closeAll(files: readonly FileSource[]): Promise<void> {
  for (const file of files) await file.close();
}

/** llama.cpp has one number for the tokens, the embedding's rows and the head's: the converter pads the tokens. */
function checkVocabulary({ file, tensors }: GgufFile, metadata: GgufMetadata): void {
  const list = 'tokenizer.ggml.tokens';
  const tokens = metadata.required(list, metadata.strings(list)).length;
  const architecture = `${metadata.string('general.architecture')}.vocab_size`;
  const said = metadata.count(architecture);
  if (said !== undefined && said !== tokens) throw metadata.error(architecture, `is ${said}`, `${tokens}, the number of tokens`);
  for (const name of ['token_embd.weight', 'output.weight', 'output.bias']) {
    const rows = tensors.get(name)?.shape[0];
    if (rows === undefined || rows === tokens) continue;
    const expected = `${tokens}, a row for each token of the file's tokenizer`;
    throw new LowrankError(`has ${rows} rows`, { place: `${file.name}: tensor "${name}"`, expected, mend: 'convert the model again' });
  }
}

function layoutOf(metadata: GgufMetadata, layouts: readonly GgufLayout[]): GgufLayout {
  const architecture = metadata.required('general.architecture', metadata.string('general.architecture'));
  const experts = (metadata.count(`${architecture}.expert_count`) ?? 0) > 0;
  const layout = layouts.find((each) => each.architecture === architecture && (each.experts ?? false) === experts);
  if (layout) return layout;
  const known = layouts.map((each) => each.architecture).join(', ');
  throw metadata.error('general.architecture', `"${architecture}" cannot be read from GGUF`, known, 'use the safetensors of this model');
}

function ggufCheckpoint({ tensors }: GgufFile, config: JsonObject, layout: GgufLayout): Omit<Checkpoint, 'close'> {
  const stored = new Map<string, StoredTensor>();
  for (const tensor of tensors.values()) {
    // The rotary factors are in config.json by now.
    if (tensor.name === 'rope_freqs.weight') continue;
    const [, layer, module, expert, kind] = /^(?:blk\.(\d+)\.)?(\w+(?:\.[a-z_]+)*)(?:\.(\d+))?\.(weight|bias)$/.exec(tensor.name) ?? [];
    // Older files have a tensor of each expert.
    const key = layer === undefined ? module : `blk.${module}${expert === undefined ? '' : '_exps'}`;
    if (module === undefined || !Object.hasOwn(layout.modules, key)) {
      const mend = 'take a file of a plain model (no adapter, no projector)';
      const problem = `has no place in the architecture "${layout.architecture}"`;
      throw new LowrankError(problem, { place: `${tensor.file.name}: tensor "${tensor.name}"`, mend });
    }
    const path = layer === undefined ? layout.modules[key] : `${layout.layers}.${layer}.${layout.modules[key]}`;
    if (path.includes('*')) {
      for (const [e, part] of expert === undefined ? expertsOf(tensor) : [[expert, tensor] as const]) {
        const name = `${path.replace('*', String(e))}.${kind}`;
        stored.set(name, storedTensor(part, name, {}));
      }
      continue;
    }
    const shape = layout.convolutions?.includes(key) ? [tensor.shape[0], 1, ...tensor.shape.slice(1)] : tensor.shape;
    const order = rowOrder(layout, key, config);
    const offset = kind === 'weight' && tensor.shape.length === 1 ? layout.normOffset : undefined;
    const name = `${path}.${kind}`;
    const read = storedTensor({ ...tensor, shape }, name, { order, offset });
    stored.set(name, layout.fanInFanOut?.test(name) ? { ...read, fanInFanOut: true } : read);
  }
  return { tensors: stored, metadata: {} };
}

/** The matrices of a tensor [E,out,in] with their numbers. */
function expertsOf(tensor: GgufTensor): [number, GgufTensor][] {
  const [experts, ...shape] = tensor.shape;
  const byteLength = tensor.byteLength / experts;
  return Array.from({ length: experts }, (_, e) => [e, { ...tensor, shape, byteLength, offset: tensor.offset + e * byteLength }]);
}

/** In which order a converter wrote the rows of a projection: as heads of `parts` with so many rows each. */
interface RowOrder {
  readonly heads: number;
  readonly parts: number;
  /** Which of all rows, `rows` in a part, was the model's row `row` of a part of a head. */
  from(head: number, part: number, row: number, rows: number): number;
}

function rowOrder({ permuted, regrouped = {} }: GgufLayout, key: string, config: JsonObject): RowOrder | undefined {
  if (Object.hasOwn(permuted, key)) {
    // llama.cpp rotates neighbours where Hugging Face rotates the halves of a head, so its converter interleaves the halves' rows.
    const from: RowOrder['from'] = (head, part, row, rows) => 2 * head * rows + 2 * row + part;
    return { heads: config[permuted[key]] as number, parts: 2, from };
  }
  if (!Object.hasOwn(regrouped, key)) return undefined;
  const heads = config[regrouped[key]] as number;
  return { heads, parts: 3, from: (head, part, row, rows) => (part * heads + head) * rows + row };
}

/** `order`: of a projection whose rows the converter moved; `added`: to each number of it. */
function storedTensor(tensor: GgufTensor, name: string, { order, offset: added = 0 }: { order?: RowOrder; offset?: number }): StoredTensor {
  const { file, type, shape, offset, byteLength } = tensor;
  const place = `${file.name}: tensor "${tensor.name}"`;
  if (order && shape[0] % (order.parts * order.heads) !== 0) {
    const expected = `a multiple of ${order.parts} × ${order.heads} heads`;
    throw new LowrankError(`has ${shape[0]} rows`, { place, expected, mend: 'convert the file again' });
  }
  const read = () => file.read(offset, byteLength);
  const readInto: StoredTensor['readInto'] = async (to, write) => {
    const bytes = order ? inOrder(await read(), shape[0], order) : await read();
    const { decode } = type;
    return decode ? decodeBytes(bytes, { ...type, decode }, to, write) : convertBytes(bytes, type.name, to, place, write);
  };
  const inPlace = !type.decode && !order;
  const stored = withReadAs({ name, dtype: type.name, shape, file, offset, byteLength, inPlace, read, readInto });
  return added === 0 ? stored : without(added, stored);
}

/** The same tensor less what the converter added to each of its numbers. */
function without(added: number, stored: StoredTensor): StoredTensor {
  const readInto: StoredTensor['readInto'] = async (to, write) => {
    const bytes = (await stored.readAs('f32')).slice();
    const numbers = new Float32Array(bytes.buffer).map((x) => x - added);
    await decodeNumbers(numbers.length, (first, target) => target.set(numbers.subarray(first, first + target.length)), to, write);
  };
  return withReadAs({ ...stored, inPlace: false, readInto });
}

/** Rows put back into the model's order. */
function inOrder(stored: Uint8Array, all: number, { heads, parts, from }: RowOrder): Uint8Array {
  const rowBytes = stored.length / all;
  const rows = all / heads / parts;
  const result = new Uint8Array(stored.length);
  let to = 0;
  for (let head = 0; head < heads; head++) {
    for (let part = 0; part < parts; part++) {
      for (let row = 0; row < rows; row++, to += rowBytes) {
        const begin = from(head, part, row, rows) * rowBytes;
        result.set(stored.subarray(begin, begin + rowBytes), to);
      }
    }
  }
  return result;
}
