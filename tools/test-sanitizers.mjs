/**
 * `npm run test:asan`: the kernels' conformance under AddressSanitizer and UndefinedBehaviorSanitizer, in an addon of its own in
 * build/asan, and the queue under ThreadSanitizer, in a program without Node. Needs GCC; takes some minutes, and runs once a release.
 *
 *   --isa A,B    instruction sets; default: generic and avx2, or neon
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './native.mjs';

const standard = { x64: 'generic,avx2', arm64: 'neon' }[process.arch] ?? 'generic';
const { isa } = parseArgs({ options: { isa: { type: 'string', default: standard } } }).values;
const compiler = process.env.CXX ?? 'g++';
const run = (command, args, env = {}) => {
  const { status, signal } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${signal ?? `exit ${status}`}`);
};
const library = (name) => execFileSync(compiler, [`-print-file-name=lib${name}.so`], { encoding: 'utf8' }).trim();

function addresses() {
  run(process.execPath, ['tools/build-native.mjs', '--isa', isa, '--sanitize'], { CXX: compiler, LOWRANK_REQUIRE_NATIVE: '1' });
  const env = {
    // Node's own leaks are no concern here, nor how its heap is laid out.
    ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1:alloc_dealloc_mismatch=0',
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
    LD_PRELOAD: `${library('asan')} ${library('ubsan')}`,
    LOWRANK_SANITIZED_SETS: isa,
    LOWRANK_REQUIRE_NATIVE: '1',
  };
  run(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', '--config', 'vitest.asan.config.ts'], env);
}

function threads() {
  const folder = join(root, 'build/tsan');
  mkdirSync(folder, { recursive: true });
  const program = join(folder, 'threads');
  const sources = ['test/threads.cpp', 'napi/queue.cpp', 'kernels/pool.cpp', 'kernels/pages.cpp', 'platform/posix.cpp'];
  const flags = ['-std=c++20', '-O1', '-g', '-fsanitize=thread', '-pthread'];
  run(compiler, [...flags, ...sources.map((name) => join(root, 'native', name)), '-o', program]);
  run(program, [], { TSAN_OPTIONS: 'halt_on_error=1' });
}

threads();
addresses();
