import { LowrankError } from '../util/errors.js';
import { bf16ToF32, f16ToF32, f32ToBf16 } from '../util/half.js';
import type { Backend, DeviceBuffer, MemoryCategory, TensorView } from './backend.js';
import { bytesOf, type DType } from './dtype.js';
import { adopt } from './scope.js';

/**
 * A block of memory and the number of its holders: the scope it was made in, each tape entry that saved it, or its owner.
 * Users never count; `scope` and `Tape` do.
 */
export class Storage {
  holders = 1;
  readonly backend: Backend;
  readonly buffer: DeviceBuffer;

  constructor(backend: Backend, buffer: DeviceBuffer) {
    this.backend = backend;
    this.buffer = buffer;
  }

  hold(): void {
    this.holders++;
  }

  release(): void {
    if (--this.holders === 0) this.backend.free(this.buffer);
    if (this.holders < 0) throw new LowrankError('a tensor was freed twice');
  }
}

/** What turns the codes of a frozen matrix into numbers; `src/core/ops.table.ts` says how. */
export interface Quantization {
  readonly absmax: Tensor;
  /** Of u4 alone. */
  readonly constants?: Tensor;
}

/** A dense row-major array on a device. Made by `empty`, `fromArray` and the ops. */
export class Tensor implements TensorView {
  readonly storage: Storage;
  readonly offset: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** True for trainable parameters and for everything computed from them. */
  requiresGrad = false;
  /** Of a weight in 4 or 8 bits. */
  quantization?: Quantization;

  /** `shape` seen in `storage` from `offset` bytes on. Holds nothing: `empty` and `fromArray` make tensors that own memory. */
  constructor(storage: Storage, offset: number, dtype: DType, shape: readonly number[]) {
    this.storage = storage;
    this.offset = offset;
    this.dtype = dtype;
    this.shape = shape;
  }

  get backend(): Backend {
    return this.storage.backend;
  }

  get buffer(): DeviceBuffer {
    return this.storage.buffer;
  }

  /** The number of elements. */
  get size(): number {
    return elementsOf(this.shape);
  }

  get bytes(): number {
    return bytesOf(this.dtype, this.size);
  }

  /**
   * Rows [start, start + count) of the first dimension, sharing memory. Holds nothing: the whole tensor must outlive it. Not
   * differentiable.
   */
  rows(start: number, count: number): Tensor {
    const rowBytes = this.bytes / this.shape[0];
    return new Tensor(this.storage, this.offset + start * rowBytes, this.dtype, [count, ...this.shape.slice(1)]);
  }

  /** The same memory under another shape of equal size. Holds nothing, like `rows`. Not differentiable. */
  view(shape: readonly number[]): Tensor {
    if (elementsOf(shape) !== this.size) throw new LowrankError(`view: [${this.shape}] cannot be seen as [${shape}]`);
    return new Tensor(this.storage, this.offset, this.dtype, shape);
  }

  /**
   * The same memory as another tensor of its own, held like any new tensor; `shape` of equal size. For results that overwrite their input.
   */
  alias(shape = this.shape): Tensor {
    const alias = this.view(shape);
    this.storage.hold();
    adopt(alias);
    return alias;
  }

  /** Gives the memory back. For tensors made outside every scope; inside one, the scope does it. */
  dispose(): void {
    this.storage.release();
  }

  /** The elements as f32 (from f32, bf16 or f16), after everything enqueued before. */
  async toFloat32(): Promise<Float32Array> {
    const bytes = await this.read();
    if (this.dtype === 'f32') return new Float32Array(bytes.buffer, bytes.byteOffset, this.size);
    const half = new Uint16Array(bytes.buffer, bytes.byteOffset, this.size);
    if (this.dtype === 'bf16') return bf16ToF32(half);
    if (this.dtype === 'f16') return f16ToF32(half);
    throw new LowrankError(`a tensor of ${this.dtype} cannot be read as f32`);
  }

  /** The elements of an i32 tensor, after everything enqueued before; throws for another dtype. */
  async toInt32(): Promise<Int32Array> {
    if (this.dtype !== 'i32') throw new LowrankError(`a tensor of ${this.dtype} cannot be read as i32`);
    const bytes = await this.read();
    return new Int32Array(bytes.buffer, bytes.byteOffset, this.size);
  }

  /** The raw little-endian bytes, a copy. */
  read(): Promise<Uint8Array> {
    return this.backend.read(this.buffer, this.offset, this.bytes);
  }

  /** Enqueues a copy of raw little-endian bytes, as many as the tensor has, into its memory. */
  write(data: Uint8Array): void {
    if (data.byteLength !== this.bytes) throw new LowrankError(`write: ${data.byteLength} bytes for a tensor of ${this.bytes}`);
    this.backend.write(this.buffer, data, this.offset);
  }
}

/** Whether two shapes are equal. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** A tensor with undefined contents, owned by the innermost scope, or by the caller where there is none. */
export function empty(backend: Backend, shape: readonly number[], dtype: DType, category: MemoryCategory = 'activations'): Tensor {
  const bytes = Math.max(1, bytesOf(dtype, elementsOf(shape)));
  const tensor = new Tensor(new Storage(backend, backend.allocate(bytes, category)), 0, dtype, shape);
  adopt(tensor);
  return tensor;
}

/** A tensor of the given values; a Float32Array may become f32 or bf16, an Int32Array i32. */
export function fromArray(
  backend: Backend,
  values: Float32Array | Int32Array,
  shape: readonly number[] = [values.length],
  dtype: DType = values instanceof Int32Array ? 'i32' : 'f32',
  category: MemoryCategory = 'activations',
): Tensor {
  if (elementsOf(shape) !== values.length) throw new LowrankError(`fromArray: ${values.length} values for shape [${shape}]`);
  const tensor = empty(backend, shape, dtype, category);
  const stored = dtype === 'bf16' ? f32ToBf16(values as Float32Array) : values;
  if (values.length > 0) tensor.write(new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength));
  return tensor;
}

/** A place for a result of `tensor`'s shape and dtype: its own memory where its caller is the only holder left, else new memory. */
export function overwritable(tensor: Tensor): Tensor {
  return tensor.storage.holders === 1 ? tensor.alias() : empty(tensor.backend, tensor.shape, tensor.dtype);
}

export function zeros(backend: Backend, shape: readonly number[], dtype: DType, category: MemoryCategory = 'activations'): Tensor {
  const tensor = empty(backend, shape, dtype, category);
  backend.run('fill', {}, { out: tensor }, { value: 0 });
  return tensor;
}
