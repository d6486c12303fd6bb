import type { DeviceBuffer, MemoryCategory } from '../../core/backend.js';

/** WebGPU's flags of buffers (§5.1.2 of the specification), which not every host has as globals. */
export const usage = { mapRead: 0x1, copySource: 0x4, copyTarget: 0x8, uniform: 0x40, storage: 0x80 } as const;

/** An allocation: a buffer of the device, which may be larger than what was asked for. */
export class GpuBlock implements DeviceBuffer {
  readonly bytes: number;
  readonly category: MemoryCategory;
  readonly memory: GPUBuffer;
  readonly device: GPUDevice;
  freed = false;
  /** Indices in it that were found to be good, until it is written again. */
  readonly checked = new Set<string>();

  constructor(device: GPUDevice, bytes: number, category: MemoryCategory, memory: GPUBuffer) {
    this.device = device;
    this.bytes = bytes;
    this.category = category;
    this.memory = memory;
  }
}

/** Sizes that buffers are made in: eighths of powers of two, so that at most a ninth is unused and freed ones serve again. */
export function sizeClass(bytes: number): number {
  const step = Math.max(256, 2 ** (Math.ceil(Math.log2(Math.max(1, bytes))) - 4));
  return Math.max(step, Math.ceil(bytes / step) * step);
}

/** Freed buffers by their size. In a queue that keeps its order a buffer may be given out again while ops that used it wait. */
export class BufferPool {
  private readonly device: GPUDevice;
  private readonly free = new Map<number, GPUBuffer[]>();

  constructor(device: GPUDevice) {
    this.device = device;
  }

  take(bytes: number): GPUBuffer {
    const size = sizeClass(bytes);
    return this.free.get(size)?.pop() ?? this.device.createBuffer({ size, usage: usage.storage | usage.copySource | usage.copyTarget });
  }

  give(memory: GPUBuffer): void {
    const known = this.free.get(memory.size);
    if (known) known.push(memory);
    else this.free.set(memory.size, [memory]);
  }
}
