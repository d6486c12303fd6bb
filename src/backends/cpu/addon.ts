import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { LowrankError, messageOf } from '../../util/errors.js';

/** What stands for one open device in the addon. */
export interface Handle {
  readonly handle: unique symbol;
}

/** The addon's functions (native/napi/addon.cpp). All but `read`, `sync` and `measurePeak` return at once; all throw plain errors. */
export interface Addon {
  /** Opens a device. `command` is where `run` finds what to do. */
  open(threads: number, instructionSet: string): { handle: Handle; command: Float64Array; instructionSet: string };
  close(handle: Handle): void;
  allocate(handle: Handle, bytes: number): number;
  free(handle: Handle, buffer: number): void;
  mapFile(handle: Handle, path: string, offset: number, bytes: number): number;
  allocatePaged(handle: Handle, bytes: number, folder: string): number;
  fetch(handle: Handle, buffer: number, offset: number, bytes: number): void;
  release(handle: Handle, buffer: number, offset: number, bytes: number, limit: number): void;
  write(handle: Handle, buffer: number, offset: number, data: Uint8Array): void;
  read(handle: Handle, buffer: number, offset: number, length: number): Promise<ArrayBuffer>;
  run(handle: Handle): void;
  sync(handle: Handle): Promise<void>;
  /** Bytes that kernels hold as scratch memory. */
  workspace(handle: Handle): number;
  startProfile(handle: Handle): void;
  /** Three numbers for each op that ran: its number in the op table, start and end in milliseconds. */
  takeProfile(handle: Handle): Float64Array;
  measurePeak(handle: Handle, kind: 'f32' | 'bf16'): Promise<number>;
  /** Those that this machine can run, the plainest first. */
  instructionSets(): string[];
}

/** Loads build/native/lowrank.node of this package. */
export function loadAddon(): Addon {
  const path = fileURLToPath(new URL('../../../build/native/lowrank.node', import.meta.url));
  try {
    return createRequire(import.meta.url)(path) as Addon;
  } catch (error) {
    const builder = fileURLToPath(new URL('../../../tools/build-native.mjs', import.meta.url));
    const missing = (error as { code?: string }).code === 'MODULE_NOT_FOUND';
    throw new LowrankError(missing ? 'the native backend has not been built' : `the native backend does not load: ${messageOf(error)}`, {
      place: path,
      mend: `run: node ${builder}`,
      cause: error,
    });
  }
}
