import type { DType } from './dtype.js';
import type { OpAttributes, OpInputs, OpName, OpOutputs } from './ops.table.js';
import type { Work } from './ops.work.js';

/** What memory is used for; peaks are counted for each. */
export const memoryCategories = [
  'weights',
  'constants',
  'adapters',
  'gradients',
  'optimizer',
  'activations',
  'logits',
  'workspace',
] as const;
export type MemoryCategory = (typeof memoryCategories)[number];

/** Bytes in use. `peak` is the largest total so far; `peakOf` the largest of each category by itself. */
export interface MemoryUse {
  readonly current: number;
  readonly peak: number;
  readonly currentOf: Readonly<Record<MemoryCategory, number>>;
  readonly peakOf: Readonly<Record<MemoryCategory, number>>;
}

/** A block of device memory. Backends put their own handle behind it. */
export interface DeviceBuffer {
  readonly bytes: number;
  /** A file's own bytes, which no op may write. */
  readonly readOnly?: boolean;
}

/** Some bytes of a buffer that is a mapped file or paged memory. */
export interface MappedRange {
  readonly buffer: DeviceBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** A dense row-major array inside a buffer; what ops receive. */
export interface TensorView {
  readonly buffer: DeviceBuffer;
  /** In bytes from the buffer's start. */
  readonly offset: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** One op that ran; times in milliseconds since the profile was started. */
export interface Span {
  readonly op: OpName;
  /** What `mark` said last. */
  readonly phase: string;
  /** The shapes of its operands by name. */
  readonly operands: Readonly<Record<string, readonly number[]>>;
  readonly work: Work;
  readonly start: number;
  readonly end: number;
}

/**
 * A device that runs ops: an in-order queue with memory. `allocate`, `free`, `write` and `run` return at once and take effect in the
 * order of the calls; `read` and `sync` wait for what was enqueued before them.
 */
export interface Backend {
  /** `reference`, `cpu`, `webgpu`. */
  readonly name: string;
  /** One line for people: instruction set, threads, adapter. */
  readonly description: string;
  /** Memory of at least `bytes` bytes, 64-byte aligned, contents undefined. */
  allocate(bytes: number, category: MemoryCategory): DeviceBuffer;
  /** Ops enqueued before this call may still use the buffer; later ones may be given its memory. */
  free(buffer: DeviceBuffer): void;
  /** Copies `data` (which the caller may change afterwards) to `offset` bytes into the buffer. */
  write(buffer: DeviceBuffer, data: Uint8Array, offset?: number): void;
  /** A copy of `length` bytes at `offset`, after all that was enqueued before. */
  read(buffer: DeviceBuffer, offset: number, length: number): Promise<Uint8Array>;
  /** Makes bytes of a local file a read-only buffer without copying them, where the device can. */
  mapFile?(path: string, offset: number, bytes: number, category: MemoryCategory): DeviceBuffer;
  /**
   * Memory of zeros in a file of a local folder, which the system moves there under pressure; where the device can. Freed like any other.
   */
  allocatePaged?(bytes: number, category: MemoryCategory, folder: string): DeviceBuffer;
  /** Begins to read part of a mapped file when what was enqueued before is done, beside what comes after. */
  fetch?(range: MappedRange): void;
  /**
   * Lets part of a mapped file or of paged memory go after all that was enqueued before, if the process then holds more than `limit` bytes.
   */
  release?(range: MappedRange, limit: number): void;
  /**
   * Whether `run` takes this op. Every backend has the ops of the table that are neither `fused` nor in a group. In place of a fused one
   * that is missing `src/ops` runs others that together do the same.
   */
  supports(op: OpName): boolean;
  /** Enqueues an op of the table. Operands have the dtypes and shapes that the table declares; outputs are written. */
  run<K extends OpName>(op: K, inputs: OpInputs<K, TensorView>, outputs: OpOutputs<K, TensorView>, attributes: OpAttributes<K>): void;
  /** Resolves when all that was enqueued is done; rejects with the first error of an op since the last call. */
  sync(): Promise<void>;
  /** Begins to note when each op runs, where the device can. */
  startProfile?(): void;
  /** Ends the profile that `startProfile` began, once all enqueued ops are done. */
  takeProfile?(): Promise<Span[]>;
  /** Names the phase of the ops that follow, for profiles. */
  mark?(phase: string): void;
  /** Bytes in use and their peaks, by category. */
  memory(): MemoryUse;
  /** Starts a new measurement of the peaks from the current use. */
  resetPeak(): void;
  /** Frees everything. The backend cannot be used afterwards. */
  close(): Promise<void>;
}

/** Counts bytes per category; each backend keeps one. */
export class MemoryCounter implements MemoryUse {
  current = 0;
  peak = 0;
  readonly currentOf = zeroes();
  readonly peakOf = zeroes();

  add(bytes: number, category: MemoryCategory): void {
    this.current += bytes;
    this.currentOf[category] += bytes;
    this.peak = Math.max(this.peak, this.current);
    this.peakOf[category] = Math.max(this.peakOf[category], this.currentOf[category]);
  }

  remove(bytes: number, category: MemoryCategory): void {
    this.current -= bytes;
    this.currentOf[category] -= bytes;
  }

  resetPeak(): void {
    this.peak = this.current;
    Object.assign(this.peakOf, this.currentOf);
  }

  /** The counts so far, with scratch memory that kernels keep, which no allocation counted. */
  snapshot(scratch = 0): MemoryUse {
    const { current, peak, currentOf, peakOf } = this;
    return {
      current: current + scratch,
      peak: peak + scratch,
      currentOf: { ...currentOf, workspace: currentOf.workspace + scratch },
      peakOf: { ...peakOf, workspace: peakOf.workspace + scratch },
    };
  }
}

function zeroes(): Record<MemoryCategory, number> {
  return Object.fromEntries(memoryCategories.map((category) => [category, 0])) as Record<MemoryCategory, number>;
}
