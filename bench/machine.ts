import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { join, resolve } from 'node:path';

/** What a figure was measured on. */
export function machine(): Record<string, string | number> {
  return {
    date: new Date().toISOString().slice(0, 10),
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    threads: availableParallelism(),
    memory_gb: Math.round(totalmem() / 1e8) / 10,
    system: `${process.platform} ${release()}`,
    node: process.versions.node,
  };
}

/** Writes bench/results/<suite>.json. */
export function writeResults(suite: string, results: object): void {
  const folder = resolve(import.meta.dirname, '../../bench/results');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${suite}.json`), `${JSON.stringify({ machine: machine(), ...results }, null, 2)}\n`);
}
