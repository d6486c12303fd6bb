import { cpuInstructionSets, openCpuBackend } from '../../src/backends/cpu/index.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend } from '../../src/core/backend.js';
import { LowrankError } from '../../src/util/errors.js';

export interface Device {
  readonly name: string;
  /** Why the device cannot be tested here. */
  readonly skip?: string;
  open(): Promise<Backend>;
}

/** Empty where the addon has not been built (an installation without a compiler); an addon that does not load is an error. */
function available(): string[] {
  try {
    return cpuInstructionSets();
  } catch (error) {
    if (error instanceof LowrankError && error.problem === 'the native backend has not been built') return [];
    throw error;
  }
}

const found = available();
const skip = (set: string) =>
  found.length === 0 ? 'the addon has not been built' : found.includes(set) ? undefined : `this machine has ${found.join(', ')}`;

/** Every backend in every form that results may depend on. */
export const devices: readonly Device[] = [
  { name: 'reference', open: async () => new ReferenceBackend() },
  ...['generic', 'avx2', 'avx512', 'avx512bf16', 'amx'].flatMap((instructionSet) =>
    [1, 2].map(
      (threads): Device => ({
        name: `cpu ${instructionSet}, ${threads} thread${threads > 1 ? 's' : ''}`,
        skip: skip(instructionSet),
        open: () => openCpuBackend({ threads, instructionSet }),
      }),
    ),
  ),
];
