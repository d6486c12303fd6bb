import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { failedFrom, fatalMoments } from './disk.js';
import { differences, type Kind, kinds, spread, Workbench } from './runs.js';

const bench = new Workbench();
beforeAll(() => bench.prepare());
afterAll(() => bench.dispose());

const failures = (Object.keys(kinds) as Kind[]).flatMap((kind) =>
  (['ENOSPC', 'EROFS', 'EIO'] as const).map((code) => [kind, code] as const),
);

test.each(failures)(
  '%s: a disk with %s from 20 of its operations on: said, nothing lost, and mended it ends the same',
  async (kind, code) => {
    const wanted = await bench.whole(kind, bench.folder());
    const { operations } = await bench.start(kind, bench.folder());
    const failed: string[] = [];
    for (const from of spread(fatalMoments(operations, code), 20)) {
      const differing = await failedFrom(bench, kind, { code, from }, wanted);
      if (differing.length > 0) failed.push(`from ${from}, ${operations[from - 1]}: ${differing.join('; ')}`);
    }
    expect(failed).toEqual([]);
  },
);

test('real disks of 20 sizes that are full: said, nothing lost, and with more room it ends the same', async ({ skip }) => {
  const disk = bench.at('disk');
  mkdirSync(disk);
  const mount = (...options: string[]) => spawnSync('mount', [...options, disk], { encoding: 'utf8' }).status === 0;
  const wanted = await bench.whole('a whole model', bench.folder());
  const bytes = Object.values(wanted).reduce((sum, { length }) => sum + length, 0);
  let full = 0;
  for (let i = 1; i <= 20; i++) {
    const size = Math.ceil((1.6 * bytes * i) / 20 / 4096) * 4096;
    if (!mount('-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs')) skip('needs root, and a system that lets it mount a tmpfs');
    try {
      const { code, err } = await bench.start('a whole model', bench.at('disk', 'out'));
      if (code !== 0) {
        full++;
        expect(err).toMatch(/error: .*\n?[\s\S]*no space left on device[\s\S]*to mend: make room/i);
        expect(mount('-o', `remount,size=${4 * bytes}`)).toBe(true);
        expect(differences(await bench.finish('a whole model', bench.at('disk', 'out')), wanted), `${size} bytes`).toEqual([]);
      }
    } finally {
      spawnSync('umount', [disk]);
    }
  }
  console.log(`${full} of 20 disks were full`);
  expect(full).toBeGreaterThan(10);
});
