import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { openCpuBackend } from '#lowrank/backends/cpu/index.js';

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

/**
 * The instruction set in use, and what its registers reach with all threads, in GFLOP/s: the best of short runs over some seconds, as a core that
 * another tenant shares has half of it for as long.
 */
export async function measurePeaks(): Promise<{ instructionSet: string; bf16: number; f32: number }> {
  const backend = await openCpuBackend();
  const [, instructionSet] = /: (.+), \d+ threads?$/.exec(backend.description) ?? ['', backend.description];
  const peaks = { instructionSet, bf16: 0, f32: 0 };
  for (let i = 0; i < 20; i++) {
    for (const kind of ['bf16', 'f32'] as const) peaks[kind] = Math.max(peaks[kind], await backend.measurePeak(kind));
    await setTimeout(500);
  }
  await backend.close();
  return peaks;
}

/** The largest resident set of this process so far, in GB: Linux's own mark, else what `getrusage` says. */
export function peakRssGb(): number {
  try {
    return (Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024) / 1e9;
  } catch {
    return (process.resourceUsage().maxRSS * 1024) / 1e9;
  }
}

/** Writes bench/results/<suite>.json. */
export function writeResults(suite: string, results: object): void {
  const folder = resolve(import.meta.dirname, '../../bench/results');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${suite}.json`), `${JSON.stringify(results, null, 2)}\n`);
}
