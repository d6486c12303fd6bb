import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describeAddon } from '../backends/cpu/index.js';
import type { Terminal } from './console.js';

const script = fileURLToPath(new URL('../../tools/build-native.mjs', import.meta.url));

/** `lowrank build-native`: compiles the addon from the sources that come with the package, into the package's own folder. */
export function buildNativeCommand(terminal: Terminal, options: { all?: boolean }): void {
  const env = { ...process.env, LOWRANK_REQUIRE_NATIVE: '1' };
  const { status } = spawnSync(process.execPath, [script, ...(options.all ? ['--all'] : [])], { env, stdio: ['ignore', 2, 2] });
  if (status !== 0) {
    process.exitCode = status ?? 1;
    return;
  }
  const { path } = describeAddon();
  terminal.result({ path }, path);
}
