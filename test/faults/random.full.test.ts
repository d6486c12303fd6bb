import { rmSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Random } from '../../src/util/philox.js';
import { differences, type Kind, kinds, namesIn, Workbench } from './runs.js';

const bench = new Workbench();
beforeAll(() => bench.prepare());
afterAll(() => bench.dispose());

const kills = Number(process.env.LOWRANK_KILLS ?? 100);
const seed = Number(process.env.LOWRANK_SEED ?? 1);

/**
 * Runs of any kind are killed at any time: half of them before an operation, half when some time has gone by; so are those that go on. Some
 * replace an earlier run. LOWRANK_KILLS and LOWRANK_SEED say how many and which; one more seed is one more night.
 */
test(`${kills} random kills (LOWRANK_KILLS) of seed ${seed} (LOWRANK_SEED): every run ends the same`, async () => {
  const random = new Random(seed, 0);
  const below = (n: number) => Math.floor(n * random.next());
  const wanted = new Map<Kind, Record<string, string>>();
  const length = new Map<Kind, { operations: number; seconds: number }>();
  for (const kind of Object.keys(kinds) as Kind[]) {
    wanted.set(kind, await bench.whole(kind, bench.folder()));
    const begin = performance.now();
    const { operations } = await bench.start(kind, bench.folder());
    length.set(kind, { operations: operations.length, seconds: (performance.now() - begin) / 1000 });
  }
  const failed: string[] = [];
  let [done, runs] = [0, 0];
  while (done < kills) {
    const kind = (Object.keys(kinds) as Kind[])[below(3)];
    const { operations, seconds } = length.get(kind)!;
    const folder = bench.folder();
    const overwrites = random.next() < 0.25;
    if (overwrites) await bench.whole(kind, folder, {}, { seed: 1 });
    const story: string[] = overwrites ? ['over an earlier run'] : [];
    // A run's own checkpoints say which recipe they are of: one of the earlier run is replaced again.
    const isOwn = () => namesIn(folder).some((name) => name.startsWith('checkpoint-')) && !bench.isOfSeed(folder, 1);
    for (let times = 1 + below(3); times > 0 && done < kills; times--) {
      const args = isOwn() ? ['--resume'] : overwrites ? ['--overwrite'] : [];
      const after = 1000 * seconds * random.next();
      const faults = random.next() < 0.5 ? { kill: 1 + below(operations) } : {};
      const ended = await bench.start(kind, folder, faults, args, [], faults.kill === undefined ? after : undefined);
      story.push(`${args.join('')} ${faults.kill ? `killed before operation ${faults.kill}` : `killed after ${after.toFixed(0)} ms`}`);
      if (ended.signal === 'SIGKILL') done++;
      else if (ended.code !== 0) failed.push(`${kind}: ${story.join(', ')}: ${ended.err}`);
      if (ended.signal === null) break;
    }
    runs++;
    const options = isOwn() ? { resume: true } : { overwrite: true };
    const differing = differences(await bench.whole(kind, folder, options), wanted.get(kind)!);
    rmSync(folder, { recursive: true });
    if (differing.length > 0) failed.push(`${kind}: ${story.join(', ')}: ${differing.join('; ')}`);
  }
  console.log(`${done} kills of ${runs} runs, ${failed.length} of which did not end the same`);
  expect(failed).toEqual([]);
});
