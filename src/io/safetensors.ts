import { LowrankError } from '../util/errors.js';
import { isObject, type JsonObject, type JsonValue, parseJson } from '../util/json.js';
import { type Checkpoint, convertBytes, type StoredTensor, withReadAs } from './checkpoint.js';
import { decodeUtf8, type FileSource } from './source.js';

/**
 * safetensors (https://huggingface.co/docs/safetensors): u64 length of the header, little-endian; the header, a JSON object of tensors
 * {dtype, shape, data_offsets: [begin, end]} relative to the header's end; the data, without holes or overlaps.
 */
const maxHeaderBytes = 100_000_000;

const mend = 'download or write the file again';

const elementBytes: Readonly<Record<string, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
};

/** Opens one file, or closes it where it is wrong. Everything in its header is checked against the file before any tensor can be read. */
export async function readSafetensors(file: FileSource): Promise<Checkpoint> {
  try {
    return await parseFile(file);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function parseFile(file: FileSource): Promise<Checkpoint> {
  const place = file.name;
  if (file.size < 8) throw new LowrankError(`only ${file.size} bytes long`, { place, expected: 'a safetensors file', mend });
  const length = new DataView((await file.read(0, 8)).slice().buffer).getBigUint64(0, true);
  if (length > BigInt(Math.min(maxHeaderBytes, file.size - 8))) {
    throw new LowrankError(`the header claims ${length} bytes`, {
      place,
      expected: `at most ${Math.min(maxHeaderBytes, file.size - 8)}`,
      mend,
    });
  }
  const dataStart = 8 + Number(length);
  const header = parseHeader(await file.read(8, Number(length)), place);
  const metadata = metadataOf(header, place);
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__') tensors.set(name, parseEntry(file, name, entry, dataStart));
  }
  checkCoverage([...tensors.values()], dataStart, file);
  return { tensors, metadata, close: () => file.close() };
}

function parseHeader(bytes: Uint8Array, place: string): Record<string, JsonObject> {
  const text = decodeUtf8(bytes, `${place}: header`);
  const header = parseJson(text, `${place}: header`);
  if (!isObject(header)) throw new LowrankError('the header is not a JSON object', { place, mend });
  for (const [name, entry] of Object.entries(header)) {
    if (!isObject(entry))
      throw new LowrankError(`${JSON.stringify(name)} is not an object`, { place, expected: '{dtype, shape, data_offsets}', mend });
  }
  const repeated = repeatedKey(text);
  if (repeated !== undefined) throw new LowrankError(`${repeated} appears twice in the header`, { place, mend });
  return header as Record<string, JsonObject>;
}

/** A key that the outermost object of valid JSON has twice; JSON.parse would take the last and hide the others. */
function repeatedKey(json: string): string | undefined {
  const keys = new Set<string>();
  let depth = 0;
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (c === '{' || c === '[') depth++;
    else if (c === '}' || c === ']') depth--;
    else if (c === '"') {
      const start = i;
      for (i++; json[i] !== '"'; i++) if (json[i] === '\\') i++;
      // The only strings at depth 1 are keys: an entry is an object.
      if (depth !== 1) continue;
      const key = JSON.parse(json.slice(start, i + 1));
      if (keys.has(key)) return JSON.stringify(key);
      keys.add(key);
    }
  }
  return undefined;
}

function metadataOf(header: JsonObject, place: string): Record<string, string> {
  const metadata = header.__metadata__ ?? {};
  if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== 'string')) {
    throw new LowrankError('__metadata__ is not an object of strings', { place, mend });
  }
  return metadata as Record<string, string>;
}

function parseEntry(file: FileSource, name: string, entry: JsonObject, dataStart: number): StoredTensor {
  const place = `${file.name}: tensor "${name}"`;
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(elementBytes, dtype)) {
    throw new LowrankError(`dtype ${JSON.stringify(dtype)} is unknown`, { place, expected: Object.keys(elementBytes).join(', '), mend });
  }
  if (!isCounts(shape) || shape.length > 8) {
    throw new LowrankError(`shape ${JSON.stringify(shape)} is not a list of sizes`, { place, mend });
  }
  if (!isCounts(offsets) || offsets.length !== 2 || offsets[0] > offsets[1] || dataStart + offsets[1] > file.size) {
    const expected = `begin ≤ end within the ${file.size - dataStart} bytes of data`;
    throw new LowrankError(`data_offsets ${JSON.stringify(offsets)} do not fit the file`, { place, expected, mend });
  }
  const elements = shape.reduce((product, n) => product * n, 1);
  const [begin, end] = offsets;
  if (!Number.isSafeInteger(elements) || elements * elementBytes[dtype] !== end - begin) {
    const expected = `${elements * elementBytes[dtype]} bytes for ${dtype} [${shape.join(', ')}]`;
    throw new LowrankError(`holds ${end - begin} bytes`, { place, expected, mend });
  }
  const offset = dataStart + begin;
  const read = () => file.read(offset, end - begin);
  const readInto: StoredTensor['readInto'] = async (to, write) => convertBytes(await read(), dtype, to, place, write);
  return withReadAs({ name, dtype, shape, file, offset, byteLength: end - begin, inPlace: true, read, readInto });
}

function isCounts(value: JsonValue | undefined): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && (n as number) >= 0);
}

function checkCoverage(tensors: StoredTensor[], dataStart: number, file: FileSource): void {
  let end = dataStart;
  for (const tensor of tensors.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)) {
    if (tensor.offset !== end) {
      const problem = tensor.offset < end ? 'overlaps the tensor before it' : `leaves ${tensor.offset - end} bytes unused before it`;
      throw new LowrankError(problem, { place: `${file.name}: tensor "${tensor.name}"`, mend });
    }
    end += tensor.byteLength;
  }
  if (end !== file.size) {
    throw new LowrankError(`${file.size - end} bytes after the last tensor`, {
      place: file.name,
      mend,
    });
  }
}

/** A tensor to be written; `data` gives its little-endian bytes when their turn comes. */
export interface TensorToWrite {
  name: string;
  /** As safetensors names it: `F32`, `BF16` … */
  dtype: string;
  shape: readonly number[];
  data: () => Promise<Uint8Array>;
}

/** A file's bytes piece by piece: the header, then each tensor in the order given. Nothing but one tensor is in memory at a time. */
export async function* encodeSafetensors(
  tensors: readonly TensorToWrite[],
  metadata: Record<string, string> = {},
): AsyncGenerator<Uint8Array> {
  const header: JsonObject = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    const bytes = byteLengthOf(dtype, shape);
    header[name] = { dtype, shape: [...shape], data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const text = JSON.stringify(header);
  // Padded with spaces so that the data begins at a multiple of 64, which lets readers use it in place.
  const encoded = new TextEncoder().encode(text);
  const padded = new Uint8Array(8 + Math.ceil((encoded.length + 8) / 64) * 64 - 8).fill(0x20);
  new DataView(padded.buffer).setBigUint64(0, BigInt(padded.length - 8), true);
  padded.set(encoded, 8);
  yield padded;
  for (const { name, dtype, shape, data } of tensors) {
    const bytes = await data();
    if (bytes.byteLength !== byteLengthOf(dtype, shape)) {
      throw new LowrankError(`tensor "${name}" gave ${bytes.byteLength} bytes`, {
        expected: `${byteLengthOf(dtype, shape)} for ${dtype} [${shape}]`,
      });
    }
    yield bytes;
  }
}

export function byteLengthOf(dtype: string, shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1) * elementBytes[dtype];
}
