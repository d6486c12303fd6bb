/** llama.cpp as a peer: node-llama-cpp with its prebuilt binaries, in build/peers, held to the instruction set that is measured. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { peersFolder } from '../tools/golden/venv.js';
import type { Instructions } from './instructions.js';

export const llamaVersion = '3.22.1';

/** Of the platform packages, those that compute on the processor alone. */
const packages: Readonly<Record<string, string>> = {
  'linux-x64': '@node-llama-cpp/linux-x64',
  'linux-arm64': '@node-llama-cpp/linux-arm64',
  'darwin-arm64': '@node-llama-cpp/mac-arm64-metal',
  'win32-x64': '@node-llama-cpp/win-x64',
};

/**
 * The folder of the installation that `instructions` allow (default: all that the machine has), made where it is missing; undefined where
 * there is no package for this machine.
 */
export function prepareLlama({ name, llama: allowed }: Partial<Instructions> = {}): string | undefined {
  const binaries = packages[`${process.platform}-${process.arch}`];
  if (!binaries) return undefined;
  const whole = join(peersFolder, `llama-${llamaVersion}`);
  if (!existsSync(join(whole, 'installed'))) {
    console.error(`installing node-llama-cpp ${llamaVersion}`);
    mkdirSync(whole, { recursive: true });
    writeFileSync(join(whole, 'package.json'), '{ "private": true }\n');
    const wanted = [`node-llama-cpp@${llamaVersion}`, `${binaries}@${llamaVersion}`];
    const options = ['--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund', '--loglevel=error'];
    execFileSync('npm', ['install', '--prefix', whole, ...options, ...wanted], { stdio: ['ignore', 2, 2] });
    writeFileSync(join(whole, 'installed'), '');
  }
  if (!allowed) return whole;
  // Of the kernels' builds beside it llama.cpp loads the best that the processor runs: the others are left out of a copy.
  const held = `${whole}-${name}`;
  if (existsSync(join(held, 'installed'))) return held;
  cpSync(whole, held, { recursive: true, filter: (path) => !path.endsWith('installed') });
  const folder = join(held, 'node_modules', binaries, 'bins', `${process.platform}-${process.arch}`);
  for (const file of readdirSync(folder)) {
    const [, build] = /^libggml-cpu-(.+)\.so$/.exec(file) ?? [];
    if (build && !allowed.includes(build)) rmSync(join(folder, file));
  }
  writeFileSync(join(held, 'installed'), '');
  return held;
}
