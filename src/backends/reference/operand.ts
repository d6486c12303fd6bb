import type { DeviceBuffer, MemoryCategory } from '../../core/backend.js';
import { bytesOf } from '../../core/dtype.js';
import { Operand as OperandOf } from '../../core/operand.js';
import type { OpAttributes, OpInputs, OpName, OpOutputs } from '../../core/ops.table.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../util/half.js';

export { floats } from '../../core/operand.js';

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
}

/** An operand whose elements are read and stored as f32 whatever its dtype. */
export class Operand extends OperandOf<ReferenceBuffer> {
  private get memory(): ArrayBuffer {
    return this.buffer.memory;
  }

  /** Rows [begin, end) of a matrix. */
  rows(begin: number, end: number): Operand {
    const { dtype, buffer, offset, place } = this;
    const [, C] = this.shape;
    return new Operand(place, { buffer, offset: offset + begin * bytesOf(dtype, C), dtype, shape: [end - begin, C] }, buffer);
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

  /** The elements' bytes themselves. */
  raw(): Uint8Array {
    return new Uint8Array(this.memory, this.offset, this.bytes);
  }

  /** Overwrites the elements, rounding them to the operand's dtype. */
  store(values: Float32Array): void {
    if (this.dtype === 'f32') new Float32Array(this.memory, this.offset, this.size).set(values);
    else new Uint16Array(this.memory, this.offset, this.size).set(this.dtype === 'bf16' ? f32ToBf16(values) : f32ToF16(values));
  }
}
