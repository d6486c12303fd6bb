import {
  type Backend,
  type DeviceBuffer,
  type MemoryCategory,
  MemoryCounter,
  type MemoryUse,
  type TensorView,
} from '../../core/backend.js';
import { checkRange, checkSharing, operandsOf } from '../../core/operand.js';
import { checkAttributes } from '../../core/ops.attributes.js';
import { type OpAttributes, type OpInputs, type OpName, type OpOutputs, opDeclarations } from '../../core/ops.table.js';
import { LowrankError } from '../../util/errors.js';
import { attentionOps } from './attention.js';
import { elementwise } from './elementwise.js';
import { expertOps } from './experts.js';
import { lossOps } from './loss.js';
import { products } from './matmul.js';
import { norms } from './norm.js';
import { type Kernels, Operand, ReferenceBuffer } from './operand.js';
import { optimizerOps } from './optimizer.js';
import { quantizers } from './quantize.js';
import { randomOps } from './random.js';
import { rowOps } from './rows.js';
import { shortConvOps } from './short-conv.js';

const kernels: Kernels<OpName> = {
  ...elementwise,
  ...products,
  ...rowOps,
  ...norms,
  ...shortConvOps,
  ...attentionOps,
  ...randomOps,
  ...lossOps,
  ...expertOps,
  ...optimizerOps,
  ...quantizers,
};

export interface ReferenceOptions {
  /** Ops to do without: fused ones, so that their composed fallbacks run, and those of groups that a backend may lack. */
  without?: readonly OpName[];
}

/**
 * The specification of every op as plain loops, in JavaScript's own thread: results are f32 and rounded once where they are stored as
 * bf16; sums inside an op are made in f64, since their order is no part of the op. An op runs in `run`, which also throws its errors.
 */
export class ReferenceBackend implements Backend {
  readonly name = 'reference';
  readonly description = 'reference: plain TypeScript, slow';
  private readonly counter = new MemoryCounter();
  private readonly buffers = new Set<DeviceBuffer>();
  private readonly without: ReadonlySet<OpName>;
  private closed = false;

  /** Opens the loops, all ops or `without` some fused ones. Throws where one of these is required. */
  constructor({ without = [] }: ReferenceOptions = {}) {
    const required = without.find((op) => !opDeclarations[op].fused && !opDeclarations[op].group);
    if (required)
      throw new LowrankError(`every backend has the op "${required}"`, { place: 'reference', expected: 'ops that may be absent' });
    this.without = new Set(without);
  }

  allocate(bytes: number, category: MemoryCategory): DeviceBuffer {
    if (this.closed) throw new LowrankError('the backend is closed', { place: 'allocate' });
    const buffer = new ReferenceBuffer(bytes, category);
    this.buffers.add(buffer);
    this.counter.add(bytes, category);
    return buffer;
  }

  free(buffer: DeviceBuffer): void {
    const { bytes, category } = this.checked(buffer, 'free');
    this.buffers.delete(buffer);
    this.counter.remove(bytes, category);
  }

  write(buffer: DeviceBuffer, data: Uint8Array, offset = 0): void {
    const target = this.checked(buffer, 'write');
    checkRange(target, offset, data.length, 'write');
    new Uint8Array(target.memory).set(data, offset);
  }

  async read(buffer: DeviceBuffer, offset: number, length: number): Promise<Uint8Array> {
    const source = this.checked(buffer, 'read');
    checkRange(source, offset, length, 'read');
    return new Uint8Array(source.memory.slice(offset, offset + length));
  }

  supports(op: OpName): boolean {
    return !this.without.has(op);
  }

  run<K extends OpName>(op: K, inputs: OpInputs<K, TensorView>, outputs: OpOutputs<K, TensorView>, attributes: OpAttributes<K>): void {
    if (!this.supports(op)) throw new LowrankError('the op is left out', { place: op, mend: 'ask `supports` first' });
    checkAttributes(op, attributes);
    const make = (place: string, view: TensorView) => new Operand(place, view, this.checked(view.buffer, place));
    const from = operandsOf(op, opDeclarations[op].inputs, inputs, make);
    const to = operandsOf(op, opDeclarations[op].outputs, outputs, make);
    checkSharing(op, from, to);
    kernels[op](from as OpInputs<K, Operand>, to as OpOutputs<K, Operand>, attributes);
  }

  async sync(): Promise<void> {}

  memory(): MemoryUse {
    return this.counter.snapshot();
  }

  resetPeak(): void {
    this.counter.resetPeak();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.buffers.clear();
  }

  private checked(buffer: DeviceBuffer, place: string): ReferenceBuffer {
    if (this.closed) throw new LowrankError('the backend is closed', { place });
    if (buffer instanceof ReferenceBuffer && this.buffers.has(buffer)) return buffer;
    throw new LowrankError('the buffer was freed, or belongs to another backend', { place });
  }
}
