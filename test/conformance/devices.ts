import { type Addon, loadAddon } from '../../src/backends/cpu/addon.js';
import { CpuBackend } from '../../src/backends/cpu/index.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend } from '../../src/core/backend.js';
import { environment } from '../../src/util/debug.js';
import { LowrankError } from '../../src/util/errors.js';
import { addonWith } from '../arm/emulated.js';

export interface Device {
  readonly name: string;
  /** Why the device cannot be tested here. */
  readonly skip?: string;
  open(): Promise<Backend>;
}

/** Of each processor, the plainest first. */
const setsOf: Record<string, readonly string[]> = {
  x64: ['generic', 'avx2', 'avx512', 'avx512bf16', 'amx'],
  arm64: ['neon', 'neonbf16'],
};
/** The set whose processor is emulated in `npm run test:arm`. */
const emulated = environment('LOWRANK_TEST_ARM');
const sets = emulated ? [emulated] : (setsOf[process.arch] ?? ['generic']);

/** Undefined where the addon has not been built (an installation without a compiler); an addon that does not load is an error. */
function load(): Addon | undefined {
  try {
    return loadAddon();
  } catch (error) {
    if (error instanceof LowrankError && error.problem === 'the native backend has not been built') return undefined;
    throw error;
  }
}

const addon = emulated ? addonWith(emulated) : load();
const found = addon?.instructionSets() ?? [];
function skip(set: string): string | undefined {
  if (emulated || found.includes(set)) return undefined;
  return addon ? `this machine has ${found.join(', ')}` : 'the addon has not been built';
}

/** Every backend in every form that results may depend on. */
export const devices: readonly Device[] = [
  ...(emulated ? [] : [{ name: 'reference', open: async () => new ReferenceBackend() }]),
  ...sets.flatMap((instructionSet) =>
    [1, 2].map(
      (threads): Device => ({
        name: `cpu ${instructionSet}, ${threads} thread${threads > 1 ? 's' : ''}`,
        skip: skip(instructionSet),
        open: async () => new CpuBackend(addon!, threads, instructionSet),
      }),
    ),
  ),
];
