import {
  type Backend,
  type DeviceBuffer,
  type MappedRange,
  type MemoryCategory,
  MemoryCounter,
  type MemoryUse,
  type TensorView,
} from '../core/backend.js';
import { checkAttributes } from '../core/ops.attributes.js';
import type { OpAttributes, OpInputs, OpName, OpOutputs } from '../core/ops.table.js';
import { workOf } from '../core/ops.work.js';
import { elementsOf } from '../core/tensor.js';
import { Scratch } from './scratch.js';

/** Around one byte that is touched the system maps as much of a file. */
const faultAround = 2 ** 16;

class DryBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly category: MemoryCategory;
  readonly kind: 'block' | 'mapped' | 'paged';
  /** Of a file, how much of it is in memory. */
  resident = 0;

  constructor(bytes: number, category: MemoryCategory, kind: 'block' | 'mapped' | 'paged') {
    this.bytes = bytes;
    this.category = category;
    this.kind = kind;
  }

  get readOnly(): boolean {
    return this.kind === 'mapped';
  }
}

/**
 * A device that computes nothing and keeps account: of memory as the processor's backend gives it out, keeps it for the next tensor and
 * maps it from files, and of the work of products. What is run on it is what a real run runs; numbers read from it are zeros.
 */
export class DryBackend implements Backend {
  readonly name = 'dry';
  readonly description = 'no device: counts memory and work';
  /** Floating-point operations of all products so far. */
  operations = 0;
  /** Ops that were run so far. */
  ops = 0;
  /** The most bytes that were resident at one time, besides the process itself. */
  peakResident = 0;
  private readonly threads: number;
  private readonly counter = new MemoryCounter();
  private readonly scratch = new Scratch();
  private live = 0;
  /** The arena holds what was in use at one time, and a few percent more where its free ranges do not fit (native/napi/arena.cpp). */
  private held = 0;
  private inFiles = 0;

  constructor(threads: number) {
    this.threads = threads;
  }

  allocate(bytes: number, category: MemoryCategory): DeviceBuffer {
    this.counter.add(bytes, category);
    this.live += bytes;
    this.held = Math.max(this.held, this.live);
    this.measure();
    return new DryBuffer(bytes, category, 'block');
  }

  free(buffer: DeviceBuffer): void {
    const { bytes, category, kind, resident } = buffer as DryBuffer;
    this.counter.remove(bytes, category);
    if (kind === 'block') this.live -= bytes;
    else this.inFiles -= resident;
  }

  mapFile(_path: string, _offset: number, bytes: number, category: MemoryCategory): DeviceBuffer {
    this.counter.add(bytes, category);
    return new DryBuffer(bytes, category, 'mapped');
  }

  allocatePaged(bytes: number, category: MemoryCategory): DeviceBuffer {
    this.counter.add(bytes, category);
    return new DryBuffer(bytes, category, 'paged');
  }

  fetch({ buffer }: MappedRange): void {
    this.touch(buffer as DryBuffer);
  }

  release({ buffer }: MappedRange, limit: number): void {
    const file = buffer as DryBuffer;
    if (this.resident() <= limit) return;
    this.inFiles -= file.resident;
    file.resident = 0;
  }

  write(): void {}

  async read(_buffer: DeviceBuffer, _offset: number, length: number): Promise<Uint8Array> {
    return new Uint8Array(length);
  }

  supports(): boolean {
    return true;
  }

  run<K extends OpName>(op: K, inputs: OpInputs<K, TensorView>, outputs: OpOutputs<K, TensorView>, attributes: OpAttributes<K>): void {
    checkAttributes(op, attributes);
    const operands = { ...inputs, ...outputs } as Record<string, TensorView | undefined>;
    for (const operand of Object.values(operands)) {
      const rows =
        op === 'gatherRows' && operand === operands.x ? elementsOf(operands.out?.shape ?? []) / (operand?.shape[1] ?? 1) : undefined;
      if (operand) this.touch(operand.buffer as DryBuffer, rows);
    }
    this.scratch.call(op, operands);
    this.operations += workOf(op, inputs, outputs, attributes).flops;
    this.ops++;
    this.measure();
  }

  /** Brings a file's bytes into memory: all, or what some rows of it touch. */
  private touch(buffer: DryBuffer, rows?: number): void {
    if (buffer.kind === 'block') return;
    const wanted = Math.max(buffer.resident, rows === undefined ? buffer.bytes : Math.min(buffer.bytes, rows * faultAround));
    this.inFiles += wanted - buffer.resident;
    buffer.resident = wanted;
  }

  private resident(): number {
    return this.held + this.inFiles + this.scratch.bytes(this.threads);
  }

  private measure(): void {
    this.peakResident = Math.max(this.peakResident, this.resident());
  }

  async sync(): Promise<void> {}

  memory(): MemoryUse {
    return this.counter.snapshot(this.scratch.bytes(this.threads));
  }

  resetPeak(): void {
    this.counter.resetPeak();
  }

  async close(): Promise<void> {}
}
