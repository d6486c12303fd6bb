import { afterAll, beforeAll, expect, test } from 'vitest';
import { killedAt } from './kills.js';
import { type Kind, kinds, Workbench } from './runs.js';

const bench = new Workbench();
beforeAll(() => bench.prepare());
afterAll(() => bench.dispose());

test.each(Object.keys(kinds) as Kind[])('%s: killed before each of its file operations in turn it ends the same', async (kind) => {
  const wanted = await bench.whole(kind, bench.folder());
  const { code, operations } = await bench.start(kind, bench.folder());
  expect(code).toBe(0);
  const points = operations.map((_, i) => i + 1);
  const failed: string[] = [];
  const one = async () => {
    for (let kill = points.shift(); kill !== undefined; kill = points.shift()) {
      const differing = await killedAt(bench, kind, kill, wanted);
      if (differing.length > 0) failed.push(`before ${kill} of ${operations.length}, ${operations[kill - 1]}: ${differing.join('; ')}`);
    }
  };
  await Promise.all([one(), one()]);
  console.log(`${kind}: ${operations.length} kills, ${failed.length} of which did not end the same`);
  expect(failed).toEqual([]);
});
