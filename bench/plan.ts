/** The suite `plan`: the peak of resident memory that the planner predicts against the measured one, and seconds a step. */
import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { parseAdapterConfig } from '#lowrank/adapters/registry.js';
import { openCpuBackend } from '#lowrank/backends/cpu/index.js';
import { standardQuantization } from '#lowrank/models/quantize.js';
import { fullBatch } from '#lowrank/plan/dry-run.js';
import { planStep } from '#lowrank/plan/plan.js';
import { measureRate } from '#lowrank/plan/rate.js';
import { contendersOf } from './lora.js';
import { modelFolder, type Run, shapes } from './shapes.js';
import { type Bench, judged, type Row, round } from './suite.js';

const bf16 = { dtype: 'bf16' } as const;
const [small, medium, large] = [
  { ...bf16, shape: 'smol135' },
  { ...bf16, shape: 'tiny1b' },
  { ...bf16, shape: 'llama7b' },
];
const runs: Run[] = [
  { ...small, method: 'lora', batch: 4, length: 512 },
  { ...small, method: 'lora', batch: 8, length: 256, checkpointing: true },
  { ...small, method: 'lora', batch: 1, length: 4096 },
  { ...small, method: 'lora', batch: 1, length: 4096, checkpointing: true },
  { ...small, method: 'lora', batch: 2, length: 1024, dropout: 0.05 },
  { ...small, method: 'qlora', batch: 2, length: 1024 },
  { ...small, method: 'full', batch: 1, length: 512 },
  { ...small, method: 'full', batch: 4, length: 512, checkpointing: true },
  { ...medium, method: 'lora', batch: 1, length: 512 },
  { ...medium, method: 'lora', batch: 2, length: 1024, checkpointing: true },
  { ...medium, method: 'qlora', batch: 1, length: 512 },
  { ...medium, method: 'qlora', batch: 1, length: 2048, checkpointing: true },
  { ...large, method: 'qlora', batch: 1, length: 512, checkpointing: true, quantized: true },
];

const nameOf = ({ method, shape, batch, length, checkpointing, dropout }: Run) =>
  `${shape} ${method} ${batch} × ${length}${checkpointing ? ', checkpointed' : ''}${dropout ? ', dropout' : ''}`;

/** Steps that are made: the second is like all that follow. */
const steps = 2;

export async function planSuite(bench: Bench): Promise<Row[]> {
  const rows: Row[] = [];
  const backend = await openCpuBackend();
  const rate = await measureRate(backend, 'bf16');
  await backend.close();
  for (const run of runs.filter((entry) => nameOf(entry).includes(bench.only ?? ''))) {
    bench.note(nameOf(run));
    const contender = (await contendersOf(run, bench.python)).ours();
    let seconds = 0;
    try {
      for (let step = 0; step < steps; step++) seconds = (await contender.ask<{ seconds: number }>({ step })).seconds;
      const { peak_rss_gb: measured, runtime_gb } = await contender.ask<{ peak_rss_gb: number; runtime_gb: number }>({});
      const machine = { memory: Infinity, threads: availableParallelism(), rate, runtime: 1e9 * runtime_gb };
      const step = {
        name: run.shape,
        config: shapes[run.shape],
        precision: 'bf16' as const,
        lora:
          run.method === 'full'
            ? undefined
            : parseAdapterConfig({ r: 16, lora_dropout: run.dropout, target_modules: 'all-linear' }, 'bench'),
        quantization: run.method === 'qlora' ? standardQuantization : undefined,
        stream: false,
        mapped: true,
        optimizer: 'adamw_torch' as const,
        gradient_checkpointing: run.checkpointing ?? false,
        batches: [fullBatch(run.batch, run.length)],
      };
      const planned = await planStep(step, run.method ?? 'lora', machine);
      const predicted = planned.peak_rss_bytes / 1e9;
      rows.push(
        judged({
          case: nameOf(run),
          ours: {
            peak_rss_gb: round(measured),
            planned_rss_gb: round(predicted),
            planned_over_measured: round(predicted / measured),
            step_seconds: round(seconds),
            planned_seconds: round(Math.sqrt((planned.seconds_per_step?.[0] ?? 0) * (planned.seconds_per_step?.[1] ?? 0))),
          },
          goal: { planned_over_measured: [0.9, 1.1] },
        }),
      );
      bench.note(`  measured ${measured.toFixed(3)} GB, planned ${predicted.toFixed(3)} GB`);
    } finally {
      await contender.close();
      if (run.shape === 'llama7b') rmSync(modelFolder(run.shape, 'NF4'), { recursive: true, force: true });
    }
  }
  return rows;
}
