import {
  type Backend,
  type DeviceBuffer,
  type MemoryCategory,
  MemoryCounter,
  type MemoryUse,
  type TensorView,
} from '../../core/backend.js';
import { bytesOf, type DType } from '../../core/dtype.js';
import { checkRange, checkSharing, Operand, operandsOf } from '../../core/operand.js';
import { checkAttributes } from '../../core/ops.attributes.js';
import { type OpAttributes, type OpInputs, type OpName, type OpOutputs, opDeclarations } from '../../core/ops.table.js';
import { elementsOf } from '../../core/tensor.js';
import { LowrankError, messageOf } from '../../util/errors.js';
import type { GpuContext, GpuOp } from './context.js';
import { IndexChecks } from './index-checks.js';
import type { GpuOperand } from './kernel.js';
import { attentionOps } from './kernels/attention.js';
import { elementwise } from './kernels/elementwise.js';
import { lossOps } from './kernels/loss.js';
import { norms } from './kernels/norm.js';
import { optimizerOps } from './kernels/optimizer.js';
import { products } from './kernels/product.js';
import { quantizers } from './kernels/quantized.js';
import { randomOps } from './kernels/random.js';
import { rowOps } from './kernels/rows.js';
import { BufferPool, GpuBlock, usage } from './memory.js';
import { GpuQueue } from './queue.js';

const ops: Readonly<Partial<Record<OpName, unknown>>> = {
  ...elementwise,
  ...products,
  ...rowOps,
  ...norms,
  ...attentionOps,
  ...randomOps,
  ...lossOps,
  ...optimizerOps,
  ...quantizers,
};

/** A GPU through WebGPU: every op is one or a few kernels in WGSL, gathered and submitted together. */
export class WebGpuBackend implements Backend {
  readonly name = 'webgpu';
  readonly description: string;
  readonly queue: GpuQueue;
  private readonly device: GPUDevice;
  private readonly pool: BufferPool;
  private readonly counter = new MemoryCounter();
  private readonly checks: IndexChecks;
  private failure?: LowrankError;
  private closed = false;

  /** `description` is one line for people. */
  constructor(device: GPUDevice, description: string) {
    this.device = device;
    this.description = description;
    this.queue = new GpuQueue(device);
    this.pool = new BufferPool(device);
    this.checks = new IndexChecks(this.queue);
    device.onuncapturederror = (event) => {
      event.preventDefault();
      this.fail(event.error.message);
    };
    void device.lost.then(({ message }) => {
      if (!this.closed) this.fail(`the device was lost: ${message}`);
    });
  }

  allocate(bytes: number, category: MemoryCategory): GpuBlock {
    this.usable('allocate');
    const { maxBufferSize } = this.device.limits;
    if (bytes > maxBufferSize) {
      throw new LowrankError(`${bytes} bytes of ${category}`, {
        place: 'allocate',
        expected: `at most ${maxBufferSize}, as this device has it`,
      });
    }
    const block = new GpuBlock(this.device, bytes, category, this.pool.take(bytes));
    this.counter.add(bytes, category);
    return block;
  }

  free(buffer: DeviceBuffer): void {
    const block = this.checked(buffer, 'free');
    block.freed = true;
    this.pool.give(block.memory);
    this.counter.remove(block.bytes, block.category);
  }

  write(buffer: DeviceBuffer, data: Uint8Array, offset = 0): void {
    const block = this.checked(buffer, 'write');
    checkRange(block, offset, data.length, 'write');
    const whole = data.length % 4 === 0 || offset + data.length === block.bytes;
    if (offset % 4 !== 0 || !whole)
      throw new LowrankError(`${data.length} bytes at ${offset}`, {
        place: 'write',
        expected: 'words of 4 bytes, or the end of the buffer',
      });
    const padded = new Uint8Array(Math.ceil(data.length / 4) * 4);
    padded.set(data);
    block.checked.clear();
    this.queue.write(block.memory, offset, padded);
  }

  async read(buffer: DeviceBuffer, offset: number, length: number): Promise<Uint8Array> {
    const block = this.checked(buffer, 'read');
    checkRange(block, offset, length, 'read');
    const from = Math.floor(offset / 4) * 4;
    const bytes = Math.ceil((offset + length - from) / 4) * 4;
    const staging = this.device.createBuffer({ size: Math.max(4, bytes), usage: usage.mapRead | usage.copyTarget });
    if (bytes > 0) this.queue.copy(block.memory, from, staging, bytes);
    await this.sync(staging);
    const result = new Uint8Array(staging.getMappedRange()).slice(offset - from, offset - from + length);
    staging.destroy();
    return result;
  }

  supports(op: OpName): boolean {
    return op in ops;
  }

  run<K extends OpName>(op: K, inputs: OpInputs<K, TensorView>, outputs: OpOutputs<K, TensorView>, attributes: OpAttributes<K>): void {
    this.usable(op);
    if (!this.supports(op)) throw new LowrankError(`the backend has no such op`, { place: op, mend: 'ask `supports` first' });
    checkAttributes(op, attributes);
    const make = (place: string, view: TensorView): GpuOperand => new Operand(place, view, this.checked(view.buffer, place));
    const from = operandsOf(op, opDeclarations[op].inputs, inputs, make);
    const to = operandsOf(op, opDeclarations[op].outputs, outputs, make);
    checkSharing(op, from, to);
    const temporary: GpuBlock[] = [];
    const context: GpuContext = {
      dispatch: (dispatch) => this.queue.dispatch(dispatch),
      scratch: (dtype: DType, shape: readonly number[]) => {
        const block = this.allocate(bytesOf(dtype, elementsOf(shape)), 'workspace');
        temporary.push(block);
        return new Operand(`${op}: scratch`, { buffer: block, offset: 0, dtype, shape }, block);
      },
      checkIndices: (indices, least, limit) => this.checks.add(indices, least, limit),
      checkSegments: (segments, queries, keys) => this.checks.addSegments(segments, queries, keys),
    };
    (ops[op] as GpuOp<K>)(from as OpInputs<K, GpuOperand>, to as OpOutputs<K, GpuOperand>, attributes, context);
    for (const { buffer } of Object.values(to)) buffer.checked.clear();
    for (const block of temporary) this.free(block);
  }

  async sync(staging?: GPUBuffer): Promise<void> {
    this.usable('sync');
    const fault = this.checks.copy();
    this.queue.flush();
    try {
      await Promise.all([staging?.mapAsync(1), fault?.staging.mapAsync(1)]);
      await this.device.queue.onSubmittedWorkDone();
    } catch (error) {
      this.failure ??= new LowrankError(messageOf(error), { place: 'webgpu' });
    }
    const problem = fault && this.checks.found(fault);
    const failure = this.failure ?? problem;
    this.failure = undefined;
    if (failure) throw failure;
  }

  memory(): MemoryUse {
    return this.counter.snapshot();
  }

  resetPeak(): void {
    this.counter.resetPeak();
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.device.destroy();
  }

  private fail(message: string): void {
    this.failure ??= new LowrankError(message.split('\n').slice(0, 3).join(' '), { place: 'webgpu' });
  }

  private usable(place: string): void {
    if (this.closed) throw new LowrankError('the backend is closed', { place });
  }

  private checked(buffer: DeviceBuffer, place: string): GpuBlock {
    this.usable(place);
    if (!(buffer instanceof GpuBlock) || buffer.device !== this.device)
      throw new LowrankError('the buffer belongs to another backend', { place });
    if (buffer.freed) throw new LowrankError('the buffer was freed', { place });
    return buffer;
  }
}
