import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { failedFrom, fatalMoments } from './disk.js';
import { differences, filesOf, spread, Workbench } from './runs.js';

const bench = new Workbench();
beforeAll(() => bench.prepare());
afterAll(() => bench.dispose());

/** How many moments are tried here; `npm run test:full` tries twenty for each kind of run and disk. */
const sample = 4;

test.each(['ENOSPC', 'EROFS'] as const)(
  `a disk with ${'%s'} from ${sample} of its operations on (test:full: 20): said, nothing lost`,
  async (code) => {
    const wanted = await bench.whole('LoRA', bench.folder());
    const { operations } = await bench.start('LoRA', bench.folder());
    for (const from of spread(fatalMoments(operations, code), sample))
      expect(await failedFrom(bench, 'LoRA', { code, from }, wanted), operations[from - 1]).toEqual([]);
  },
);

test('an earlier result is there until the new one is whole, though the disk is full', async () => {
  const folder = bench.folder();
  const { operations } = await bench.start('LoRA', bench.folder());
  const earlier = await bench.whole('LoRA', folder, {}, { seed: 1 });
  const from = operations.findIndex((operation) => /result.*README\.md/.test(operation)) + 1;
  expect(from).toBeGreaterThan(1);
  // There are more operations where an earlier run is removed: the disk fills somewhere before the result is whole.
  const { code, err } = await bench.start('LoRA', folder, { code: 'ENOSPC', from }, ['--overwrite']);
  expect({ code, said: err.includes('no space left on device') }).toEqual({ code: 1, said: true });
  const results = Object.keys(earlier).filter((name) => !name.includes('checkpoint-') && name !== 'trainer_log.jsonl');
  const found = filesOf(folder);
  expect(results.filter((name) => found[name] !== earlier[name])).toEqual([]);
  expect(readFileSync(join(folder, 'adapter_config.json'), 'utf8')).toContain('"r": 4');
  expect(differences(await bench.finish('LoRA', folder), await bench.whole('LoRA', bench.folder()))).toEqual([]);
});
