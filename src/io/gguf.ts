import { type BlockType, blockTypes, otherBlockTypes } from '../quant/gguf-blocks.js';
import { LowrankError } from '../util/errors.js';
import { decodeUtf8, type FileSource } from './source.js';

/**
 * GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), version 2 or 3: magic, version, counts; key-value pairs; tensor infos;
 * then the data, each tensor aligned, with nothing but padding between them. Everything is little-endian; strings and arrays carry their
 * length as u64.
 */
const magic = 0x46554747;
const defaultAlignment = 32;

/** Limits that no real file comes near; they keep a false count from costing memory. */
const maxMetadataBytes = 256 << 20;
const maxArrayLength = 1 << 24;
const maxEntries = 1 << 20;
const maxDimensions = 4;

export type GgufScalar = number | boolean | string;
export type GgufValue = GgufScalar | GgufScalar[];

/** A tensor as the file declares it. */
export interface GgufTensor {
  /** llama.cpp's name: `blk.0.attn_q.weight`. */
  readonly name: string;
  readonly type: BlockType;
  /** Slowest dimension first, as everywhere here; the file stores the reverse. */
  readonly shape: readonly number[];
  /** Where it lies; of a split model each part has its own. */
  readonly file: FileSource;
  /** In bytes from the file's start. */
  readonly offset: number;
  readonly byteLength: number;
}

/**
 * A GGUF file whose header was read and checked: metadata by key, and where each tensor lies. Tensors are read when they are
 * wanted.
 */
export interface GgufFile {
  readonly file: FileSource;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/** Reads what precedes the data. Every count, length, type and offset is checked against the file before it is used. */
export async function readGguf(file: FileSource): Promise<GgufFile> {
  const cursor = new Cursor(file);
  await cursor.need(24, 'the header');
  checkVersion(cursor.u32(), cursor.u32(), file.name);
  const tensorCount = cursor.count(24, maxEntries, 'tensors');
  const pairCount = cursor.count(13, maxEntries, 'key-value pairs');
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < pairCount; i++) {
    const key = await cursor.string(`key ${i}`);
    const what = `metadata "${key}"`;
    if (metadata.has(key)) throw cursor.error('appears twice', what);
    metadata.set(key, await readValue(cursor, what));
  }
  const infos: Omit<GgufTensor, 'file'>[] = [];
  for (let i = 0; i < tensorCount; i++) infos.push(await readTensorInfo(cursor, i));
  const alignment = metadata.get('general.alignment') ?? defaultAlignment;
  if (typeof alignment !== 'number' || !(alignment >= 1 && alignment <= 1 << 20 && Number.isInteger(Math.log2(alignment)))) {
    throw cursor.error(`is ${alignment}`, 'metadata "general.alignment"', 'a power of two');
  }
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  return { file, metadata, tensors: placeTensors(infos, dataStart, alignment, file) };
}

function checkVersion(found: number, version: number, place: string): void {
  const convert = 'convert the model again with a current llama.cpp';
  if (found !== magic) {
    const problem = found === 0x47475546 ? 'is big-endian' : 'does not begin with "GGUF"';
    throw new LowrankError(problem, { place, expected: 'a little-endian GGUF file', mend: 'check that this is the file you meant' });
  }
  if (version === 2 || version === 3) return;
  const problem = version > 0 && version % 65536 === 0 ? 'is big-endian' : `has GGUF version ${version}`;
  throw new LowrankError(problem, { place, expected: 'little-endian, version 2 or 3', mend: convert });
}

/** Value types by number: bytes, and how one is read. Strings (8) and arrays (9) are of any length. */
const scalars: ReadonlyMap<number, [bytes: number, read: (view: DataView, at: number) => GgufScalar]> = new Map([
  [0, [1, (view, at) => view.getUint8(at)]],
  [1, [1, (view, at) => view.getInt8(at)]],
  [2, [2, (view, at) => view.getUint16(at, true)]],
  [3, [2, (view, at) => view.getInt16(at, true)]],
  [4, [4, (view, at) => view.getUint32(at, true)]],
  [5, [4, (view, at) => view.getInt32(at, true)]],
  [6, [4, (view, at) => shortest(view.getFloat32(at, true))]],
  [7, [1, (view, at) => view.getUint8(at) !== 0]],
  [10, [8, (view, at) => Number(view.getBigUint64(at, true))]],
  [11, [8, (view, at) => Number(view.getBigInt64(at, true))]],
  [12, [8, (view, at) => view.getFloat64(at, true)]],
] as [number, [number, (view: DataView, at: number) => GgufScalar]][]);
const stringType = 8;
const arrayType = 9;

/** The shortest decimal that is this f32: what was 1e-5 when the file was made is 1e-5 again, not 0.00000999999974. */
function shortest(value: number): number {
  for (let digits = 6; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}

async function readValue(cursor: Cursor, what: string): Promise<GgufValue> {
  await cursor.need(4, what);
  const type = cursor.u32();
  if (type !== arrayType) return readScalar(cursor, type, what);
  await cursor.need(12, what);
  const elementType = cursor.u32();
  if (elementType === arrayType) throw cursor.error('is an array of arrays', what, 'an array of numbers or strings');
  const length = cursor.count(scalars.get(elementType)?.[0] ?? 8, maxArrayLength, `elements of ${what}`);
  const values: GgufScalar[] = [];
  for (let i = 0; i < length; i++) values.push(await readScalar(cursor, elementType, what));
  return values;
}

async function readScalar(cursor: Cursor, type: number, what: string): Promise<GgufScalar> {
  if (type === stringType) return cursor.string(what);
  const scalar = scalars.get(type);
  if (!scalar) throw cursor.error(`has the unknown type ${type}`, what, 'a type from 0 to 12');
  const [bytes, read] = scalar;
  if (!cursor.has(bytes)) await cursor.need(bytes, what);
  return cursor.take(bytes, read);
}

/** `offset` is still relative to the data. */
async function readTensorInfo(cursor: Cursor, index: number): Promise<Omit<GgufTensor, 'file'>> {
  const name = await cursor.string(`name of tensor ${index}`);
  const what = `tensor "${name}"`;
  await cursor.need(4, what);
  const dimensions = cursor.u32();
  if (dimensions < 1 || dimensions > maxDimensions) throw cursor.error(`has ${dimensions} dimensions`, what, `1 to ${maxDimensions}`);
  await cursor.need(dimensions * 8 + 12, what);
  const shape = Array.from({ length: dimensions }, () => cursor.u64()).reverse();
  const id = cursor.u32();
  const offset = cursor.u64();
  const type = blockTypes.get(id);
  if (!type) {
    const known = otherBlockTypes.get(id);
    const expected = [...blockTypes.values()].map((known) => known.name).join(', ');
    throw cursor.error(
      known ? `has the type ${known}, which cannot be read` : `has the unknown type ${id}`,
      what,
      expected,
      'take another file of the same model',
    );
  }
  const elements = shape.reduce((product, size) => product * size, 1);
  if (!(elements >= 1 && Number.isSafeInteger(elements))) throw cursor.error(`has the shape [${shape}]`, what);
  const row = shape[dimensions - 1];
  if (row % type.elements !== 0) {
    throw cursor.error(`has rows of ${row} elements`, what, `a multiple of ${type.elements} for ${type.name}`);
  }
  return { name, type, shape, offset, byteLength: (elements / type.elements) * type.bytes };
}

function placeTensors(infos: Omit<GgufTensor, 'file'>[], dataStart: number, alignment: number, file: FileSource): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  const error = (name: string, problem: string, expected?: string) =>
    new LowrankError(problem, { place: `${file.name}: tensor "${name}"`, expected, mend });
  for (const info of infos) {
    const offset = dataStart + info.offset;
    if (info.offset % alignment !== 0) throw error(info.name, `begins at ${info.offset}`, `a multiple of ${alignment}`);
    if (!(offset + info.byteLength <= file.size)) {
      throw error(info.name, `ends at byte ${offset + info.byteLength}`, `at most ${file.size}, the size of the file`);
    }
    if (tensors.has(info.name)) throw error(info.name, 'appears twice');
    tensors.set(info.name, { ...info, file, offset });
  }
  let end = dataStart;
  for (const tensor of [...tensors.values()].sort((a, b) => a.offset - b.offset)) {
    if (tensor.offset < end) throw error(tensor.name, 'overlaps the tensor before it');
    if (tensor.offset - end >= alignment) throw error(tensor.name, `leaves ${tensor.offset - end} bytes unused before it`, 'padding alone');
    end = tensor.offset + tensor.byteLength;
  }
  const rest = file.size - end;
  if (rest >= alignment && tensors.size > 0) throw new LowrankError(`${rest} bytes after the last tensor`, { place: file.name, mend });
  return tensors;
}

const mend = 'download or convert the file again';
const chunkBytes = 1 << 20;

/** Reads forward through a file, a megabyte at a time. */
class Cursor {
  private readonly file: FileSource;
  private view: DataView = new DataView(new ArrayBuffer(0));
  /** Offset in the file of the view's first byte, and of the next byte inside the view. */
  private base = 0;
  private at = 0;

  constructor(file: FileSource) {
    this.file = file;
  }

  get position(): number {
    return this.base + this.at;
  }

  has(bytes: number): boolean {
    return this.at + bytes <= this.view.byteLength;
  }

  /** Makes the next bytes available to the reading methods. */
  async need(bytes: number, what: string): Promise<void> {
    if (this.has(bytes)) return;
    const start = this.position;
    const rest = this.file.size - start;
    if (bytes > rest) throw this.error(`needs ${bytes} bytes where ${rest} are left`, what);
    if (start + bytes > maxMetadataBytes) throw this.error(`goes beyond ${maxMetadataBytes} bytes of metadata`, what);
    const read = await this.file.read(start, Math.min(rest, Math.max(bytes, chunkBytes)));
    this.view = new DataView(read.buffer, read.byteOffset, read.byteLength);
    this.base = start;
    this.at = 0;
  }

  take<T>(bytes: number, read: (view: DataView, at: number) => T): T {
    const value = read(this.view, this.at);
    this.at += bytes;
    return value;
  }

  u32(): number {
    return this.take(4, (view, at) => view.getUint32(at, true));
  }

  /** Beyond 2^53 rounded, which every check that follows refuses. */
  u64(): number {
    return this.take(8, (view, at) => Number(view.getBigUint64(at, true)));
  }

  /** A u64 that says how many things follow, each of which takes at least so many bytes. */
  count(bytesEach: number, limit: number, what: string): number {
    const count = this.u64();
    const most = Math.min(limit, Math.floor((this.file.size - this.position) / bytesEach));
    if (count > most) throw this.error(`claims ${count} ${what}`, undefined, `at most ${most}`);
    return count;
  }

  async string(what: string): Promise<string> {
    if (!this.has(8)) await this.need(8, what);
    const length = this.u64();
    if (!this.has(length)) await this.need(length, what);
    return this.take(length, (view, at) =>
      decodeUtf8(new Uint8Array(view.buffer, view.byteOffset + at, length), `${this.file.name}: ${what}`),
    );
  }

  error(problem: string, what?: string, expected?: string, remedy = mend): LowrankError {
    return new LowrankError(problem, { place: what ? `${this.file.name}: ${what}` : this.file.name, expected, mend: remedy });
  }
}
