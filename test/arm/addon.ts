/** Stands for src/backends/cpu/addon.ts where vitest.arm.config.ts says so: the addon of an emulated processor. */
import type { LoadedAddon } from '../../src/backends/cpu/addon.js';
import { environment } from '../../src/util/debug.js';
import { addonOn, addonPath } from './emulated.js';

export * from '../../src/backends/cpu/addon.js';

let loaded: LoadedAddon | undefined;

/** With the one instruction set that is tested, on the least processor that has it. */
export function loadAddon(): LoadedAddon {
  const instructionSet = environment('LOWRANK_CPU') ?? '';
  const sets = () => [instructionSet];
  const open = () => Object.assign(addonOn(instructionSet === 'neon' ? 'cortex-a72' : 'max'), { instructionSets: sets, machineSets: sets });
  loaded ??= { addon: open(), path: addonPath };
  return loaded;
}
