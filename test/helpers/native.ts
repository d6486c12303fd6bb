import { fileURLToPath } from 'node:url';
import { describe, test } from 'vitest';
import { cpuInstructionSets, describeAddon, openCpuBackend } from '../../src/backends/cpu/index.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend } from '../../src/core/backend.js';
import { BackendUnavailable } from '../../src/core/device.js';
import { notRunTest } from './not-run.js';

/** The addon that `npm run prepare` makes. */
export const addonPath = fileURLToPath(new URL('../../build/native/lowrank.node', import.meta.url));

const notBuilt = 'the native backend has not been built';

/** The instruction sets of this machine; none where the addon has not been built. An addon that does not load is an error. */
function available(): string[] {
  try {
    // One that it was built without can be seen: its tests fail.
    return [...cpuInstructionSets(), ...describeAddon().missingSets];
  } catch (error) {
    if (error instanceof BackendUnavailable && process.env.LOWRANK_REQUIRE_NATIVE !== '1') return [];
    throw error;
  }
}

export const nativeSets: readonly string[] = available();

/** Why the native backend cannot be tested here. With LOWRANK_REQUIRE_NATIVE=1 a missing addon fails every suite that asks. */
export const withoutNative: string | undefined = nativeSets.length === 0 ? notBuilt : undefined;

/** Tests of the native backend; where it is missing they are one that was not run, with the reason. */
export function describeNative(name: string, body: () => void): void {
  if (withoutNative === undefined) describe(name, body);
  else notRun(name, withoutNative);
}

/** One test of the native backend, perhaps of one platform alone, among others that run everywhere. */
export function testNative(name: string, body: () => Promise<void>, platform = process.platform): void {
  const reason = withoutNative ?? (platform === process.platform ? undefined : `needs ${platform}`);
  test(name, ({ skip }) => (reason === undefined ? body() : skip(reason)));
}

/** What `describe` would hold, if it could be run here. The reason is listed at the end of the run. */
export function notRun(name: string, reason: string): void {
  describe(name, () => {
    test(notRunTest, ({ skip }) => skip(reason));
  });
}

/** The fastest backend that there is here: the processor's, else plain loops. */
export async function openBest(): Promise<Backend> {
  return withoutNative === undefined ? openCpuBackend({ threads: 2 }) : new ReferenceBackend();
}
