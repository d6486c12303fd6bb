import { LowrankError } from '../util/errors.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../util/half.js';
import type { FileSource } from './source.js';

/** Element types that tensors can be asked for in. */
export type ReadType = 'f32' | 'bf16' | 'f16';

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
}

/** The tensors of one or several files. */
export interface Checkpoint {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: Readonly<Record<string, string>>;
  close(): Promise<void>;
}

/** Bytes of f32, bf16 or f16 elements in another of these types. */
export function convertBytes(bytes: Uint8Array, from: string, to: ReadType, place: string): Uint8Array {
  if (from.toLowerCase() === to) return bytes;
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return fromFloat32(toFloat32(aligned, from, place), to);
}

function toFloat32(bytes: Uint8Array, dtype: string, place: string): Float32Array {
  const half = () => new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  switch (dtype) {
    case 'F32':
      return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    case 'BF16':
      return bf16ToF32(half());
    case 'F16':
      return f16ToF32(half());
    case 'F64':
      return Float32Array.from(new Float64Array(bytes.slice().buffer));
    default:
      throw new LowrankError(`dtype ${dtype} holds no floating-point weights`, {
        place,
        expected: 'F32, F16, BF16 or F64',
        mend: 'choose a checkpoint with plain weights',
      });
  }
}

export function fromFloat32(values: Float32Array, dtype: ReadType): Uint8Array {
  const array = dtype === 'f32' ? values : dtype === 'bf16' ? f32ToBf16(values) : f32ToF16(values);
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
