import type { DeviceBuffer, MemoryCategory, TensorView } from '../../core/backend.js';
import { bytesOf, type DType } from '../../core/dtype.js';
import type { OpAttributes, OpInputs, OpName, OpOutputs } from '../../core/ops.table.js';
import { elementsOf } from '../../core/tensor.js';
import { LowrankError } from '../../util/errors.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../util/half.js';

/** How an op is computed: checks its operands, reads the inputs, stores the outputs. */
export type Kernel<K extends OpName> = (inputs: OpInputs<K, Operand>, outputs: OpOutputs<K, Operand>, attributes: OpAttributes<K>) => void;
export type Kernels<K extends OpName> = { readonly [P in K]: Kernel<P> };

export class ReferenceBuffer implements DeviceBuffer {
  readonly memory: ArrayBuffer;
  readonly category: MemoryCategory;

  constructor(bytes: number, category: MemoryCategory) {
    this.memory = new ArrayBuffer(bytes);
    this.category = category;
    // Contents are undefined until written: NaN in every float dtype, so that a use of them shows.
    new Uint8Array(this.memory).fill(0xff);
  }

  get bytes(): number {
    return this.memory.byteLength;
  }

  /** Throws unless bytes [offset, offset + length) are inside. */
  checkRange(offset: number, length: number, place: string): void {
    if (offset >= 0 && length >= 0 && offset + length <= this.bytes) return;
    throw new LowrankError(`bytes ${offset} … ${offset + length} of a buffer of ${this.bytes}`, { place });
  }
}

export const floats: readonly DType[] = ['f32', 'bf16'];

/** One operand of a call: a tensor with its name, read and stored as f32 whatever its dtype. */
export class Operand {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly size: number;
  private readonly place: string;
  private readonly memory: ArrayBuffer;
  private readonly offset: number;
  private readonly buffer: ReferenceBuffer;

  constructor(place: string, { offset, dtype, shape }: TensorView, buffer: ReferenceBuffer) {
    this.place = place;
    this.dtype = dtype;
    this.shape = shape;
    this.size = elementsOf(shape);
    this.offset = offset;
    this.memory = buffer.memory;
    this.buffer = buffer;
    buffer.checkRange(offset, bytesOf(dtype, this.size), place);
    if (offset % bytesOf(dtype, 1) !== 0) this.refuse(`the offset ${offset} is not aligned to ${dtype}`);
  }

  /** Throws unless the operand has one of the dtypes and the shape; −1 stands for any size, no shape for any. */
  check(dtypes: readonly DType[], shape?: readonly number[]): this {
    if (!dtypes.includes(this.dtype)) this.refuse(`is ${this.dtype}`, dtypes.join(' or '));
    const fits = !shape || (shape.length === this.shape.length && shape.every((n, i) => n === -1 || n === this.shape[i]));
    if (!fits) this.refuse(`has shape [${this.shape}]`, `[${shape.map((n) => (n === -1 ? '·' : n))}]`);
    return this;
  }

  /** Rows [begin, end) of a matrix. */
  rows(begin: number, end: number): Operand {
    const { dtype, buffer, offset } = this;
    const [, C] = this.shape;
    return new Operand(this.place, { buffer, offset: offset + begin * bytesOf(dtype, C), dtype, shape: [end - begin, C] }, buffer);
  }

  refuse(problem: string, expected?: string): never {
    throw new LowrankError(problem, { place: this.place, expected });
  }

  /** Whether any byte of the operand is one of the other's. */
  overlaps(other: Operand): boolean {
    const end = ({ dtype, size, offset }: Operand) => offset + bytesOf(dtype, size);
    return this.memory === other.memory && Math.max(this.offset, other.offset) < Math.min(end(this), end(other));
  }

  /** Whether both are the same elements of the same memory. */
  equals({ memory, offset, dtype, shape }: Operand): boolean {
    const alike = shape.length === this.shape.length && shape.every((n, i) => n === this.shape[i]);
    return memory === this.memory && offset === this.offset && dtype === this.dtype && alike;
  }

  /** The elements as f32: the memory itself where that is the dtype, elsewhere a copy. */
  values(): Float32Array {
    if (this.dtype === 'f32') return new Float32Array(this.memory, this.offset, this.size);
    const half = new Uint16Array(this.memory, this.offset, this.size);
    return this.dtype === 'bf16' ? bf16ToF32(half) : f16ToF32(half);
  }

  /** Numbers of i32, each in [0, limit). */
  places(limit: number): Int32Array {
    const places = this.integers();
    places.forEach((place, i) => {
      if (place < 0 || place >= limit) this.refuse(`${place} at ${i}`, `at least 0, below ${limit}`);
    });
    return places;
  }

  integers(): Int32Array {
    return new Int32Array(this.memory, this.offset, this.size);
  }

  bytes(): Uint8Array {
    return new Uint8Array(this.memory, this.offset, bytesOf(this.dtype, this.size));
  }

  /** Overwrites the elements, rounding them to the operand's dtype. */
  store(values: Float32Array): void {
    if (this.dtype === 'f32') new Float32Array(this.memory, this.offset, this.size).set(values);
    else new Uint16Array(this.memory, this.offset, this.size).set(this.dtype === 'bf16' ? f32ToBf16(values) : f32ToF16(values));
  }
}
