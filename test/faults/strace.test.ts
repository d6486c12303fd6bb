/** No system call that changes the run's folder escapes what preload.mjs counts: strace sees all of them, those of the addon included. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { withoutNative } from '../helpers/native.js';
import { type Kind, Workbench } from './runs.js';

const bench = new Workbench();
beforeAll(() => bench.prepare());
afterAll(() => bench.dispose());

const changing = [
  'open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat',
  'write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,truncate,ftruncate,fallocate,fsync,fdatasync,msync',
  'chmod,fchmod,utimensat,io_uring_enter',
].join(',');

/** System calls that have changed something below a folder, as the preload calls its operations: `write NAME`. */
function changesOf(trace: string, folder: string): string[] {
  // Of a call that another thread's interrupts the beginning and the end are lines of their own.
  const begun = new Map<string, string>();
  return trace.split('\n').flatMap((part) => {
    const [, thread, rest] = /^(\d+) +(.*)$/.exec(part) ?? ['', '', ''];
    const unfinished = /^(.*) <unfinished \.\.\.>$/.exec(rest);
    if (unfinished) begun.set(thread, unfinished[1]);
    const line = rest.replace(/^<\.\.\. \w+ resumed>/, () => begun.get(thread) ?? '');
    // openat(AT_FDCWD</tmp>, "/tmp/x", O_WRONLY|O_CREAT, 0666) = 21</tmp/x>
    const [, name, args, result] = /^(\w+)\((.*)\) += (-?\d+)/.exec(line) ?? [];
    if (name === undefined || Number(result) < 0) return [];
    if (name === 'msync' || name === 'io_uring_enter') return [name];
    const path = new RegExp(`[<"]${folder}(?:/([^>"]*))?[>"]`).exec(args);
    if (!path || (name.startsWith('open') && !/O_WRONLY|O_RDWR|O_CREAT|O_TRUNC/.test(args))) return [];
    return [`${name} ${path[1] ?? ''}`];
  });
}

const countOf = (all: readonly string[]) => {
  const counts = new Map<string, number>();
  for (const one of all) counts.set(one, (counts.get(one) ?? 0) + 1);
  return counts;
};

/** How the preload calls a system call. */
function asCounted(call: string): string {
  const [name, written = ''] = call.split(/ (.*)/s);
  const path = written.replace(/^\.paged-\w{6}$/, 'paged');
  const kind = [
    [/^(open|creat)/, 'open'],
    [/^mkdir/, 'mkdir'],
    [/^rename/, 'rename'],
    [/^unlink/, 'unlink'],
    [/^(write|pwrite)/, 'write'],
    [/^f(data)?sync$/, 'sync'],
  ].find(([pattern]) => (pattern as RegExp).test(name))?.[1];
  return `${(kind as string | undefined) ?? name} ${path}`.trimEnd();
}

const found = spawnSync('strace', ['-f', '-o', '/dev/null', 'true']).status === 0;

test.for(['LoRA', 'QLoRA with paged 8-bit states'] as Kind[])('%s: strace sees no change that is not counted', async (kind, { skip }) => {
  if (!found) skip('needs strace, and a system that lets it trace');
  if (withoutNative !== undefined && kind !== 'LoRA') skip(withoutNative);
  const folder = bench.folder();
  const trace = bench.at(`${kind.length}.strace`);
  // Paths are whole and nothing is cut; libuv's other way to the disk, which strace does not see, is off.
  const options = [
    '-f',
    '-y',
    '-qq',
    '-s',
    '4096',
    '--seccomp-bpf',
    '-e',
    `trace=?${changing.replaceAll(',', ',?')}`,
    '-E',
    'UV_USE_IO_URING=0',
  ];
  const { code, err, operations } = await bench.start(kind, folder, {}, [], ['strace', ...options, '-o', trace]);
  expect(code, err).toBe(0);
  const seen = countOf(changesOf(readFileSync(trace, 'latin1'), folder).map(asCounted));
  const counted = countOf(operations.map((operation) => operation.replace(/^write the rest of/, 'write').trimEnd()));
  const paged = counted.get('allocatePaged paged') ?? 0;
  const pages = new Map([
    // A file without a name is made, has a name for a moment, and gets its room.
    ...['open paged', 'unlink paged', 'fallocate paged'].map((name) => [name, paged] as const),
    ['msync', counted.get('release paged') ?? 0],
  ]);
  const escaped = [...seen].filter(([call, count]) => count > (pages.get(call) ?? counted.get(call) ?? 0));
  expect(escaped).toEqual([]);
  // And it does look: what was written and moved it has seen.
  const unseen = [...counted].filter(([name, count]) => /^(write|rename)/.test(name) && (seen.get(name) ?? 0) < count);
  expect(unseen).toEqual([]);
  expect(seen.size).toBeGreaterThan(40);
  if (kind !== 'LoRA') expect([paged > 0, seen.get('open paged'), (seen.get('msync') ?? 0) > 0]).toEqual([true, paged, true]);
});
