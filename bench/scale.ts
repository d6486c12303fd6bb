/**
 * The suite `scale`: one QLoRA step of the shapes of Llama at 7B, 13B, 33B and 65B (length 512, rank 64 on all linear layers, checkpointed,
 * paged AdamW), each in a process of its own, with the peak of its resident memory. The checkpoints are random; they are written and
 * removed.
 */
import { execFile } from 'node:child_process';
import { rmSync, statfsSync } from 'node:fs';
import { promisify } from 'node:util';
import type { ScaleResult, ScaleRun } from './ours/scale.js';
import { stepWork, syntheticModel } from './shapes.js';
import { type Bench, judged, ours, type Row, root, round } from './suite.js';

interface Case {
  name: string;
  shape: string;
  /** BF16 is quantised as it is read; NF4 is used where it lies. */
  dtype: 'BF16' | 'NF4';
  stream: boolean;
  /** What the disk must have free, and the most that the process may hold, GB. */
  disk: number;
  goal: number;
}

const cases: Case[] = [
  { name: '7B, from 16 bits', shape: 'llama7b', dtype: 'BF16', stream: false, disk: 20, goal: 6 },
  { name: '13B', shape: 'llama13b', dtype: 'NF4', stream: false, disk: 15, goal: 10.3 },
  { name: '33B, streamed', shape: 'llama33b', dtype: 'NF4', stream: true, disk: 30, goal: 20 },
  { name: '65B, streamed', shape: 'llama65b', dtype: 'NF4', stream: true, disk: 60, goal: 12 },
];
const [length, rank] = [512, 64];

export async function scaleSuite(bench: Bench): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { name, shape, dtype, stream, disk, goal } of cases.filter((entry) => entry.name.includes(bench.only ?? ''))) {
    const { bavail, bsize } = statfsSync(root);
    if (bavail * bsize < disk * 1e9) {
      bench.note(`${name}: skipped, the disk has ${Math.round((bavail * bsize) / 1e9)} GB free of the ${disk} that it takes`);
      continue;
    }
    bench.note(`${name}: writing the checkpoint`);
    const folder = await syntheticModel(shape, dtype);
    try {
      const run: ScaleRun = { shape, folder, stream, length, rank };
      bench.note(`${name}: a step`);
      const environment = { ...process.env, TMPDIR: folder };
      const { stdout } = await promisify(execFile)(process.execPath, [ours('scale'), JSON.stringify(run)], { env: environment });
      const result = JSON.parse(stdout) as ScaleResult;
      const work = await stepWork({ shape, dtype: 'bf16', batch: 1, length, rank });
      const complete = Number.isFinite(result.loss) && result.zero_gradients === 0;
      const figures = Object.fromEntries(Object.entries(result).map(([key, value]) => [key, round(value, 4)]));
      const beyond: Record<string, number> =
        dtype === 'BF16' ? { beyond_quantized_gb: round(result.load_peak_rss_gb - result.quantized_gb) } : {};
      rows.push(
        judged({
          case: name,
          ours: { ...figures, ...beyond, share: round(work / result.step_seconds / bench.peaks.bf16) },
          goal: { peak_rss_gb: complete ? goal : 0, ...(dtype === 'BF16' ? { beyond_quantized_gb: 1 } : {}) },
        }),
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return rows;
}
