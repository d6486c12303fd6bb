import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { BackendUnavailable } from '../../core/device.js';
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
  /** The path of a mapped file whose pages could not be had when they were used, or "": then everything that was computed is wrong. */
  lostFile(handle: Handle): string;
  /** Bytes that kernels hold as scratch memory. */
  workspace(handle: Handle): number;
  startProfile(handle: Handle): void;
  /** Three numbers for each op that ran: its number in the op table, start and end in milliseconds. */
  takeProfile(handle: Handle): Float64Array;
  measurePeak(handle: Handle, kind: 'f32' | 'bf16'): Promise<number>;
  /** Those that were compiled and that this machine has, the plainest first. */
  instructionSets(): string[];
  /** All that this machine has. */
  machineSets(): string[];
}

/** Where the addon was found. */
export interface LoadedAddon {
  addon: Addon;
  path: string;
  /** The platform package that it came with; undefined where it was built on this machine. */
  platformPackage?: string;
}

/** What makes an addon, in every installation. */
const builder = 'npx lowrank build-native';
const packageRoot = new URL('../../../', import.meta.url);
const require = createRequire(import.meta.url);

/**
 * Loads the addon: the one that was built in this package's own folder, or else the one of the package for this platform, which npm
 * installs beside it. Throws BackendUnavailable where there is neither.
 */
export function loadAddon(): LoadedAddon {
  const built = fileURLToPath(new URL('build/native/lowrank.node', packageRoot));
  if (existsSync(built)) return { addon: loadFrom(built), path: built };
  const name = `lowrank-${process.platform}-${process.arch}`;
  const path = findPlatformAddon(name);
  if (path === undefined) {
    throw new BackendUnavailable('the native backend has not been built', {
      without: '15 to 150 times slower',
      mend: `install a C++20 compiler (g++ 11, clang 14 or newer) and run \`${builder}\``,
    });
  }
  return { addon: loadFrom(path), path, platformPackage: name };
}

function findPlatformAddon(name: string): string | undefined {
  let manifest: string;
  try {
    manifest = require.resolve(`${name}/package.json`);
  } catch {
    return undefined;
  }
  // Ops have numbers, which another version may have dealt out otherwise.
  const [found, wanted] = [manifest, fileURLToPath(new URL('package.json', packageRoot))].map(versionOf);
  if (found !== wanted) {
    throw new LowrankError(`${name} is version ${found}`, {
      place: manifest,
      expected: `version ${wanted}, as lowrank`,
      mend: `npm install lowrank@${wanted}`,
    });
  }
  return require.resolve(name);
}

function versionOf(manifest: string): string {
  return (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version;
}

function loadFrom(path: string): Addon {
  try {
    return require(path) as Addon;
  } catch (error) {
    throw new LowrankError(`the native backend does not load: ${messageOf(error)}`, {
      place: path,
      mend: `build it on this machine with \`${builder}\`, or choose --device reference, which is slow`,
      cause: error,
    });
  }
}
