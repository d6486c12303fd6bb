import { LowrankError } from '../util/errors.js';
import { eventLoopTurns } from '../util/event-loop.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../util/half.js';
import type { FileSource } from './source.js';

/** Element types that tensors can be asked for in. */
export type ReadType = 'f32' | 'bf16' | 'f16';

/** Takes bytes and their place in the whole; they may change once it returns. */
export type PieceWriter = (offset: number, bytes: Uint8Array) => void;

/** One tensor of a file, not read yet. */
export interface StoredTensor {
  readonly name: string;
  /** `F32`, `F16`, `BF16`, `I64` … as safetensors names them, or a GGUF block type such as `Q4_1`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly file: FileSource;
  /** In bytes from the file's start. */
  readonly offset: number;
  readonly byteLength: number;
  /** True where the stored bytes are the tensor row by row in `dtype`, so that they can be used where they lie. */
  readonly inPlace: boolean;
  /** The stored bytes. */
  read(): Promise<Uint8Array>;
  /** The elements in another type, little-endian, rounded to nearest even. */
  readAs(dtype: ReadType): Promise<Uint8Array>;
  /** The same piece by piece, each with its place in bytes: no second copy of a large tensor is in memory. */
  readInto(dtype: ReadType, write: PieceWriter): Promise<void>;
  readonly quantized?: QuantizedParts;
  /** Its file holds it as [in,out], and so it is written, too; here its shape and its numbers are those of [out,in]. */
  readonly fanInFanOut?: true;
}

/**
 * The parts of a quantised matrix, whose codes and scales may be used where they lie (src/core/ops.table.ts says how they become numbers).
 */
export type QuantizedParts =
  | { readonly kind: 'u4'; readonly codes: StoredTensor; readonly absmax: StoredTensor; constants(): Promise<Float32Array> }
  | { readonly kind: 'i8'; readonly codes: StoredTensor; readonly absmax: StoredTensor };

/** The tensors of one or several files. */
export interface Checkpoint {
  /** By the names that the model has for them; the files' own are in the tensors. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** What the files hold besides the model's weights: it is not read, and stands in what is written as it is. */
  readonly others?: readonly StoredTensor[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Closes its files. What was mapped from them stays. */
  close(): Promise<void>;
}

/** How elements are stored: so many of them in so many bytes. */
export interface BlockCodec {
  readonly bytes: number;
  readonly elements: number;
  /** Whole blocks into as many elements as they hold. */
  decode(source: Uint8Array, target: Float32Array): void;
}

/** A typed array of whole elements over bytes that may begin anywhere. */
export function view<T>(
  Kind: { new (buffer: ArrayBufferLike, offset: number, length: number): T; BYTES_PER_ELEMENT: number },
  bytes: Uint8Array,
): T {
  const aligned = bytes.byteOffset % Kind.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  return new Kind(aligned.buffer, aligned.byteOffset, aligned.byteLength / Kind.BYTES_PER_ELEMENT);
}

const plain: Readonly<Record<string, BlockCodec>> = {
  F32: { bytes: 4, elements: 1, decode: (source, target) => target.set(view(Float32Array, source)) },
  F64: { bytes: 8, elements: 1, decode: (source, target) => target.set(view(Float64Array, source)) },
  F16: { bytes: 2, elements: 1, decode: (source, target) => target.set(f16ToF32(view(Uint16Array, source))) },
  BF16: { bytes: 2, elements: 1, decode: (source, target) => target.set(bf16ToF32(view(Uint16Array, source))) },
};

/** Elements that are decoded in one go: about a millisecond. */
const pieceElements = 1 << 16;

/** A stored tensor with the method that follows from `readInto`. */
export function withReadAs(stored: Omit<StoredTensor, 'readAs'>): StoredTensor {
  const size = stored.shape.reduce((product, n) => product * n, 1);
  const readAs: StoredTensor['readAs'] = async (to) => {
    const bytes = size * (to === 'f32' ? 4 : 2);
    let result = new Uint8Array(0);
    await stored.readInto(to, (offset, piece) => {
      if (piece.length === bytes) result = piece as Uint8Array<ArrayBuffer>;
      else (result = result.length === bytes ? result : new Uint8Array(bytes)).set(piece, offset);
    });
    return result;
  };
  return { ...stored, readAs };
}

/** Row `index` of a matrix; undefined where its rows are not stored one after another in a plain dtype. */
export async function readRow(stored: StoredTensor, index: number): Promise<Float32Array | undefined> {
  if (!stored.inPlace || stored.shape.length !== 2) return undefined;
  const bytes = stored.byteLength / stored.shape[0];
  const row = new Float32Array(stored.shape[1]);
  const write: PieceWriter = (offset, piece) => new Uint8Array(row.buffer).set(piece, offset);
  await convertBytes(await stored.file.read(stored.offset + index * bytes, bytes), stored.dtype, 'f32', stored.name, write);
  return row;
}

/** A matrix that its file holds as [in,out] (GPT-2's Conv1D), as the [out,in] of other linear layers. Codes are in that order already. */
export function fromFanInFanOut(stored: StoredTensor): StoredTensor {
  if (stored.quantized) return { ...stored, fanInFanOut: true };
  const [inputs, outputs] = stored.shape;
  const readInto: StoredTensor['readInto'] = async (to, write) => write(0, transposeBytes(await stored.readAs(to), inputs, outputs));
  return withReadAs({ ...stored, shape: [outputs, inputs], inPlace: false, readInto, fanInFanOut: true });
}

/** The bytes of a matrix [rows,columns] in the order of [columns,rows]; elements have 2 or 4 bytes. */
export function transposeBytes(bytes: Uint8Array, rows: number, columns: number): Uint8Array {
  const half = bytes.length === 2 * rows * columns;
  const from = half ? view(Uint16Array, bytes) : view(Uint32Array, bytes);
  const to = from.slice();
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) to[j * rows + i] = from[i * columns + j];
  return new Uint8Array(to.buffer);
}

/** Stored elements as f32, bf16 or f16, rounded to nearest even. */
export function decodeBytes(
  bytes: Uint8Array,
  { bytes: size, elements, decode }: BlockCodec,
  to: ReadType,
  write: PieceWriter,
): Promise<void> {
  const piece = Math.max(1, Math.floor(pieceElements / elements)) * elements;
  const some = (first: number, target: Float32Array) =>
    decode(bytes.subarray((first / elements) * size, ((first + target.length) / elements) * size), target);
  return decodeNumbers((bytes.length / size) * elements, some, to, write, piece);
}

/**
 * `count` numbers that `decode` puts into its target, from the one it is told on, as f32, bf16 or f16. Other work gets its turns between
 * the pieces.
 */
export async function decodeNumbers(
  count: number,
  decode: (first: number, target: Float32Array) => void,
  to: ReadType,
  write: PieceWriter,
  piece = pieceElements,
): Promise<void> {
  const scratch = new Float32Array(Math.min(piece, count));
  const turn = eventLoopTurns();
  for (let first = 0; first < count; first += piece) {
    await turn();
    const values = scratch.subarray(0, Math.min(piece, count - first));
    decode(first, values);
    const stored = to === 'f32' ? values : to === 'bf16' ? f32ToBf16(values) : f32ToF16(values);
    write(first * stored.BYTES_PER_ELEMENT, new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength));
  }
}

/** The same for the dtypes of safetensors. */
export async function convertBytes(bytes: Uint8Array, from: string, to: ReadType, place: string, write: PieceWriter): Promise<void> {
  if (from.toLowerCase() === to) return write(0, bytes);
  if (Object.hasOwn(plain, from)) return decodeBytes(bytes, plain[from], to, write);
  throw new LowrankError(`dtype ${from} holds no floating-point weights`, {
    place,
    expected: 'F32, F16, BF16 or F64',
    mend: 'choose a checkpoint with plain weights',
  });
}
