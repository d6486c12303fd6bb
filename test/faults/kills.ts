import { expect } from 'vitest';
import { differences, type Kind, type Workbench } from './runs.js';

/** Kills a run before its file operation of this number and lets it go on: what then differs from a run that nobody killed. */
export async function killedAt(bench: Workbench, kind: Kind, kill: number, wanted: Record<string, string>): Promise<string[]> {
  const folder = bench.folder();
  const { signal } = await bench.start(kind, folder, { kill });
  expect(signal).toBe('SIGKILL');
  return differences(await bench.finish(kind, folder), wanted);
}
