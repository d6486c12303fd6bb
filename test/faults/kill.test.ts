import { afterAll, beforeAll, expect, test } from 'vitest';
import { killedAt } from './kills.js';
import { differentMoments, type Kind, kinds, spread, Workbench } from './runs.js';

const bench = new Workbench();
beforeAll(() => bench.prepare());
afterAll(() => bench.dispose());

/** How many of some hundred moments are tried here; `npm run test:full` tries all. */
const sample = 7;

test.each(Object.keys(kinds) as Kind[])(
  `%s: killed before ${sample} of its file operations (test:full: each) it ends the same`,
  async (kind) => {
    const wanted = await bench.whole(kind, bench.folder());
    const { code, operations } = await bench.start(kind, bench.folder());
    expect(code).toBe(0);
    const moments = spread(differentMoments(operations), sample);
    expect(moments).toHaveLength(sample);
    for (const kill of moments) expect(await killedAt(bench, kind, kill, wanted), operations[kill - 1]).toEqual([]);
  },
);
