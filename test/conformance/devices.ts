import { openCpuBackend } from '../../src/backends/cpu/index.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend } from '../../src/core/backend.js';
import { openGpu, withoutGpu } from '../helpers/gpu.js';
import { nativeSets, notRun, withoutNative } from '../helpers/native.js';

/** How far off a device's outputs of one dtype may be: `times` what a case allows, and `absolute` more. */
export interface Slack {
  readonly times: number;
  readonly absolute: number;
}

export interface Device {
  readonly name: string;
  /** Of outputs by their dtype, and why it is what it is. Outputs of whole numbers are equal on every device. */
  readonly tolerance: { readonly f32: Slack; readonly bf16: Slack; readonly f16: Slack; readonly reason: string };
  /** Of an op's cases every so many is run, where all would take too long; default all. */
  readonly every?: number;
  /** Why the device cannot be tested here. */
  readonly skip?: string;
  open(): Promise<Backend>;
}

const skip = (set: string) => withoutNative ?? (nativeSets.includes(set) ? undefined : `this machine has ${nativeSets.join(', ')}`);

/** Lists the devices that cannot be tested here, one line for each reason, and gives the others. */
export function testable(): Device[] {
  for (const reason of new Set(devices.map(({ skip }) => skip))) {
    const names = devices.filter(({ skip }) => skip === reason).map(({ name }) => name);
    if (reason !== undefined) notRun(names.join('; '), reason);
  }
  return devices.filter(({ skip }) => skip === undefined);
}

const asWritten: Slack = { times: 1, absolute: 0 };
const exact: Device['tolerance'] = {
  f32: asWritten,
  bf16: asWritten,
  f16: asWritten,
  reason: 'the cases are written for IEEE arithmetic of f32 with subnormal numbers, rounded to nearest, which processors have',
};

/** Of exp, log, sqrt and division WGSL asks for 2.5 to 4 units in the last place, and less of large arguments (its §15.7.4.1). */
const shader: Device['tolerance'] = {
  f32: { times: 4, absolute: 2 ** -23 },
  bf16: { times: 4, absolute: 2 ** -23 },
  f16: asWritten,
  reason: 'WGSL lets exponentials, roots and quotients be off by several units in the last place, and a product and a sum be one operation',
};

/** Every backend in every form that results may depend on. */
export const devices: readonly Device[] = [
  { name: 'reference', tolerance: exact, open: async () => new ReferenceBackend() },
  ...['generic', 'avx2', 'avx512', 'avx512bf16', 'amx', 'neon', 'neonbf16'].flatMap((instructionSet) =>
    [1, 2].map(
      (threads): Device => ({
        name: `cpu ${instructionSet}, ${threads} thread${threads > 1 ? 's' : ''}`,
        tolerance: exact,
        skip: skip(instructionSet),
        open: () => openCpuBackend({ threads, instructionSet }),
      }),
    ),
  ),
  ...['swiftshader', 'lavapipe'].map(
    (name): Device => ({ name: `webgpu ${name}`, tolerance: shader, every: 23, skip: withoutGpu(name), open: () => openGpu(name) }),
  ),
];
