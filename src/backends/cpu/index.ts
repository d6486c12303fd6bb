import { mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { toNamespacedPath } from 'node:path';
import {
  type Backend,
  type DeviceBuffer,
  type MappedRange,
  type MemoryCategory,
  MemoryCounter,
  type MemoryUse,
  type Span,
  type TensorView,
} from '../../core/backend.js';
import type { OpAttributes, OpInputs, OpName, OpOutputs } from '../../core/ops.table.js';
import { workOf } from '../../core/ops.work.js';
import { environment } from '../../util/debug.js';
import { LowrankError, messageOf } from '../../util/errors.js';
import { type Addon, type Handle, loadAddon } from './addon.js';
import { encode } from './command.js';

/** How the processor is opened. */
export interface CpuOptions {
  /** Threads that compute; LOWRANK_THREADS, or else the number of cores that this process may use. */
  threads?: number;
  /**
   * `generic`, `avx2`, `avx512`, `avx512bf16`, `amx`, or on Arm `neon`, `neonbf16`; LOWRANK_CPU, or else the richest that this machine has.
   */
  instructionSet?: string;
}

export class CpuBuffer implements DeviceBuffer {
  /** The addon's number of the buffer; −1 once it is freed. */
  id: number;
  readonly bytes: number;
  readonly category: MemoryCategory;
  readonly owner: CpuBackend;
  readonly readOnly: boolean;

  constructor(id: number, bytes: number, category: MemoryCategory, owner: CpuBackend, readOnly = false) {
    this.id = id;
    this.bytes = bytes;
    this.category = category;
    this.owner = owner;
    this.readOnly = readOnly;
  }
}

/** The machine's processor through the native addon: ops run on a queue thread with a pool of workers, JavaScript's thread stays free. */
export class CpuBackend implements Backend {
  readonly name = 'cpu';
  readonly description: string;
  private readonly addon: Addon;
  private readonly handle: Handle;
  private readonly command: Float64Array;
  private readonly counter = new MemoryCounter();
  private readonly own = (view: TensorView): CpuBuffer => this.checked(view.buffer);
  private phase = '';
  /** The ops enqueued since a profile was started, in order. */
  private traced?: Omit<Span, 'start' | 'end'>[];
  private closed = false;

  constructor(addon: Addon, threads: number, instructionSet: string) {
    const opened = reported('cpu', () => addon.open(threads, instructionSet));
    this.addon = addon;
    this.handle = opened.handle;
    this.command = opened.command;
    this.description = `cpu: ${opened.instructionSet}, ${threads} thread${threads === 1 ? '' : 's'}`;
  }

  allocate(bytes: number, category: MemoryCategory): DeviceBuffer {
    const id = reported('allocate', () => this.addon.allocate(this.handle, bytes));
    this.counter.add(bytes, category);
    return new CpuBuffer(id, bytes, category, this);
  }

  free(buffer: DeviceBuffer): void {
    const block = this.checked(buffer);
    this.addon.free(this.handle, block.id);
    block.id = -1;
    this.counter.remove(block.bytes, block.category);
  }

  mapFile(path: string, offset: number, bytes: number, category: MemoryCategory): DeviceBuffer {
    const id = reported('mapFile', () => this.addon.mapFile(this.handle, toNamespacedPath(path), offset, bytes));
    this.counter.add(bytes, category);
    return new CpuBuffer(id, bytes, category, this, true);
  }

  allocatePaged(bytes: number, category: MemoryCategory, folder: string): DeviceBuffer {
    const mend = 'make room, choose a folder on another disk, or an optimizer that is not paged';
    const id = reported(
      'allocatePaged',
      () => {
        mkdirSync(folder, { recursive: true });
        return this.addon.allocatePaged(this.handle, bytes, toNamespacedPath(folder));
      },
      mend,
    );
    this.counter.add(bytes, category);
    return new CpuBuffer(id, bytes, category, this);
  }

  fetch({ buffer, offset, bytes }: MappedRange): void {
    const { id } = this.checked(buffer);
    reported('fetch', () => this.addon.fetch(this.handle, id, offset, bytes));
  }

  release({ buffer, offset, bytes }: MappedRange, limit: number): void {
    const { id } = this.checked(buffer);
    reported('release', () => this.addon.release(this.handle, id, offset, bytes, limit));
  }

  write(buffer: DeviceBuffer, data: Uint8Array, offset = 0): void {
    const { id } = this.checked(buffer);
    reported('write', () => this.addon.write(this.handle, id, offset, data));
  }

  async read(buffer: DeviceBuffer, offset: number, length: number): Promise<Uint8Array> {
    const { id } = this.checked(buffer);
    const bytes = await settled(reported('read', () => this.addon.read(this.handle, id, offset, length)));
    this.checkFiles();
    return new Uint8Array(bytes);
  }

  supports(_op: OpName): boolean {
    return true;
  }

  run<K extends OpName>(op: K, inputs: OpInputs<K, TensorView>, outputs: OpOutputs<K, TensorView>, attributes: OpAttributes<K>): void {
    encode(this.command, op, inputs, outputs, attributes, this.own);
    reported(op, () => this.addon.run(this.handle));
    const { phase } = this;
    this.traced?.push({ op, phase, operands: shapesOf({ ...inputs, ...outputs }), work: workOf(op, inputs, outputs, attributes) });
  }

  async sync(): Promise<void> {
    await settled(reported('sync', () => this.addon.sync(this.handle)));
    this.checkFiles();
  }

  /** Throws where a mapped file was cut off while it was used: in place of what is missing zeros were read. */
  private checkFiles(): void {
    const place = this.closed ? '' : this.addon.lostFile(this.handle);
    if (place === '') return;
    throw new LowrankError('was cut off, or cannot be read any more, while it was in use', {
      place,
      expected: 'files that nobody changes as long as they are used',
      mend: 'write or download it again, check the disk, and resume from the last checkpoint',
    });
  }

  memory(): MemoryUse {
    return this.counter.snapshot(this.addon.workspace(this.handle));
  }

  resetPeak(): void {
    this.counter.resetPeak();
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.sync().catch(() => {});
    this.addon.close(this.handle);
  }

  mark(phase: string): void {
    this.phase = phase;
  }

  startProfile(): void {
    this.addon.startProfile(this.handle);
    this.traced = [];
  }

  async takeProfile(): Promise<Span[]> {
    const traced = this.traced ?? [];
    this.traced = undefined;
    await this.sync();
    // Ops that were enqueued before the start may have run after it: those of the profile are the last.
    const numbers = this.addon.takeProfile(this.handle).slice(-3 * traced.length || undefined);
    return traced.slice(0, numbers.length / 3).map((entry, i) => ({ ...entry, start: numbers[3 * i + 1], end: numbers[3 * i + 2] }));
  }

  /** The multiply-adds that all threads together do in registers, in GFLOP/s: the ceiling of every matrix product. */
  measurePeak(kind: 'f32' | 'bf16'): Promise<number> {
    return settled(this.addon.measurePeak(this.handle, kind));
  }

  private checked(buffer: DeviceBuffer): CpuBuffer {
    if (!(buffer instanceof CpuBuffer) || buffer.owner !== this) throw new LowrankError('the buffer belongs to another backend');
    if (this.closed) throw new LowrankError('the backend is closed');
    if (buffer.id < 0) throw new LowrankError('the buffer was freed');
    return buffer;
  }
}

/**
 * Opens the processor. Throws BackendUnavailable where no addon is installed, another error where the machine lacks the instruction set.
 */
export async function openCpuBackend({ threads, instructionSet }: CpuOptions = {}): Promise<CpuBackend> {
  return new CpuBackend(loadAddon().addon, threads ?? threadsFromEnvironment(), instructionSet ?? environment('LOWRANK_CPU') ?? '');
}

/** The instruction sets that `openCpuBackend` accepts on this machine, the plainest first. */
export function cpuInstructionSets(): string[] {
  return loadAddon().addon.instructionSets();
}

/** Where the addon lies, the platform package that it came with, and the instruction sets of this machine that it was built without. */
export function describeAddon(): { path: string; platformPackage?: string; missingSets: string[] } {
  const { addon, path, platformPackage } = loadAddon();
  const built = addon.instructionSets();
  return { path, platformPackage, missingSets: addon.machineSets().filter((set) => !built.includes(set)) };
}

function shapesOf(operands: Readonly<Record<string, TensorView | undefined>>): Record<string, readonly number[]> {
  return Object.fromEntries(Object.entries(operands).flatMap(([name, view]) => (view ? [[name, view.shape]] : [])));
}

function threadsFromEnvironment(): number {
  const text = environment('LOWRANK_THREADS');
  if (!text) return availableParallelism();
  const threads = Number(text);
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024)
    throw new LowrankError(`is "${text}"`, {
      place: 'LOWRANK_THREADS',
      expected: 'a whole number from 1 to 1024',
      mend: 'correct the environment variable, or unset it',
    });
  return threads;
}

/** The addon's errors as the project's, with the place where they came up. */
function reported<R>(place: string, body: () => R, mend?: string): R {
  try {
    return body();
  } catch (error) {
    throw new LowrankError(messageOf(error), { place, mend, cause: error });
  }
}

/** The same for a promise; the addon's message begins with the op. */
function settled<R>(promise: Promise<R>): Promise<R> {
  return promise.catch((error) => {
    throw new LowrankError(messageOf(error), { cause: error });
  });
}
