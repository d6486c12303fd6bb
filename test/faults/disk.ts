import { expect } from 'vitest';
import { differences, differentMoments, type Faults, type Kind, namesIn, type Workbench } from './runs.js';

const says = { ENOSPC: 'no space left on device', EROFS: 'read-only file system', EIO: 'i/o error' };

/** The moments from which on a disk's failure keeps the result from being written; after them there is only something to be removed. */
export function fatalMoments(operations: readonly string[], code: NonNullable<Faults['code']>): number[] {
  const needed = code === 'ENOSPC' ? /^(open|mkdir|write the rest)/ : /^rename \.result/;
  const last = operations.findLastIndex((operation) => needed.test(operation)) + 1;
  return differentMoments(operations).filter((moment) => moment <= last);
}

/**
 * Lets a run meet a disk that fails from its file operation of this number on: it says so and ends. The disk is mended, the run goes on:
 * what then differs from a run whose disk was well.
 */
export async function failedFrom(
  bench: Workbench,
  kind: Kind,
  { code, from }: Required<Omit<Faults, 'kill'>>,
  wanted: Record<string, string>,
): Promise<string[]> {
  const folder = bench.folder();
  const run = await bench.start(kind, folder, { code, from });
  const { err } = run;
  expect({ code: run.code, signal: run.signal }, err).toEqual({ code: 1, signal: null });
  const error = err.slice(err.indexOf('error:'));
  expect(error).toContain(says[code]);
  expect(error).toContain(folder);
  expect(error).toMatch(/\n {2}to mend: \S/);
  // Nobody but a bug shows where in the program it came up.
  expect(error).not.toMatch(/\n\s+at /);
  // What is full can still be emptied.
  if (code === 'ENOSPC') expect(namesIn(folder).filter((name) => name.startsWith('.'))).toEqual([]);
  return differences(await bench.finish(kind, folder), wanted);
}
