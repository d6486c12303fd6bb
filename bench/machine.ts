import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { openCpuBackend } from '#lowrank/backends/cpu/index.js';
import { empty } from '#lowrank/core/tensor.js';

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
 * The instruction set in use, and what its registers reach with all threads, in GFLOP/s: the best of short runs over some seconds, as a
 * core that another tenant shares has half of it for as long.
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

/**
 * Bytes per second that all threads together read out of memory: a sum over 1 GiB of f32 in huge pages, the best of five. It reads as fast
 * as a loop of vector loads and additions written for this alone, and needs no compiler.
 */
export async function measureBandwidth(): Promise<number> {
  const backend = await openCpuBackend();
  const x = empty(backend, [1 << 14, 1 << 14], 'f32', 'workspace');
  const out = empty(backend, [1], 'f32', 'workspace');
  backend.run('fill', {}, { out: x }, { value: 1 });
  await backend.sync();
  let best = Infinity;
  for (let i = 0; i < 5; i++) {
    backend.run('fill', {}, { out }, { value: 0 });
    await backend.sync();
    const start = performance.now();
    backend.run('sumSquares', { x }, { out }, {});
    await backend.sync();
    best = Math.min(best, (performance.now() - start) / 1000);
  }
  const [sum] = await out.toFloat32();
  if (sum !== x.size) throw new Error(`the sum of ${x.size} ones came out as ${sum}`);
  const { bytes } = x;
  await backend.close();
  return bytes / best;
}

/** The largest resident set of this process so far, in GB: Linux's own mark, else what `getrusage` says. */
export function peakRssGb(): number {
  try {
    return (Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024) / 1e9;
  } catch {
    return (process.resourceUsage().maxRSS * 1024) / 1e9;
  }
}

/** Writes bench/results/<name>.json; a suite's is named `<suite>.<instruction set>`, so that what other machines measured stays. */
export function writeResults(name: string, results: object): void {
  const folder = resolve(import.meta.dirname, '../../bench/results');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify(results, null, 2)}\n`);
}
