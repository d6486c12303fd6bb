import { loadAddon } from '../../src/backends/cpu/addon.js';
import { CpuBackend } from '../../src/backends/cpu/index.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend } from '../../src/core/backend.js';
import { environment } from '../../src/util/debug.js';
import { addonWith } from '../arm/emulated.js';
import { nativeSets, notRun, withoutNative } from '../helpers/native.js';

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
const addon = emulated ? addonWith(emulated) : withoutNative === undefined ? loadAddon().addon : undefined;

function skip(set: string): string | undefined {
  if (emulated || nativeSets.includes(set)) return undefined;
  return withoutNative ?? `this machine has ${nativeSets.join(', ')}`;
}

/** Lists the devices that cannot be tested here, one line for each reason, and gives the others. */
export function testable(): Device[] {
  for (const reason of new Set(devices.map(({ skip }) => skip))) {
    const names = devices.filter(({ skip }) => skip === reason).map(({ name }) => name);
    if (reason !== undefined) notRun(names.join('; '), reason);
  }
  return devices.filter(({ skip }) => skip === undefined);
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
