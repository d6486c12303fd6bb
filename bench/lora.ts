/**
 * The suites `lora` and `memory`: LoRA steps (r 16 on all linear layers, AdamW) of ours, of PyTorch + PEFT as its users run it, and of the
 * same under torch.compile. All live at once and take turns, one step each; a figure is the median.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Terminal } from '#lowrank/cli/console.js';
import { findQuickstartModel } from '#lowrank/cli/quickstart-model.js';
import { codecOf, readDatasets, readRecipe } from '#lowrank/cli/session.js';
import '#lowrank/index.js';
import { prepareData } from '#lowrank/train/data.js';
import { Contender, median } from './contender.js';
import { type Run, shapes, storedAs, syntheticModel, workOf } from './shapes.js';
import { type Bench, judged, ours, peer, type Row, root, round } from './suite.js';

interface Case {
  name: string;
  run: Run;
  /** Against PEFT eager and compiled; whole-step share of the machine's peak; peak resident memory against PEFT eager. */
  goal: { eager: number; compiled?: number; share?: number; memory: number };
}

const small: Run = { shape: 'smol135', dtype: 'bf16', batch: 4, length: 512 };
const cases: Case[] = [
  { name: '135M bf16, 4 × 512', run: small, goal: { eager: 2.1, compiled: 1.65, share: 0.55, memory: 0.4 } },
  { name: '135M bf16, 4 × 512, checkpointed', run: { ...small, checkpointing: true }, goal: { eager: 2, memory: 0.35 } },
  { name: '135M bf16, 4 × 512, half supervised', run: { ...small, supervised: 0.5 }, goal: { eager: 2.3, compiled: 1.8, memory: 0.4 } },
  {
    name: '1.1B bf16, 1 × 512',
    run: { ...small, shape: 'tiny1b', batch: 1 },
    goal: { eager: 1.4, compiled: 1.2, share: 0.68, memory: 0.8 },
  },
  { name: '135M fp32, 4 × 512', run: { ...small, dtype: 'fp32' }, goal: { eager: 2.2, compiled: 1.7, memory: 0.4 } },
  {
    name: '135M bf16, orders, packed / padded',
    run: { ...small, batch: 8, dropout: 0.05, data: 'orders' },
    goal: { eager: 3, memory: 0.35 },
  },
];

/** Steps that count; one before them does not. */
const rounds = 5;

export interface Measured {
  /** The median of a step, seconds. */
  seconds: number;
  peakGb: number;
}

/** Takes turns: a warm-up of each, then `count` steps of each. */
export async function alternate(contenders: readonly Contender[], count: number, note: Bench['note']): Promise<Measured[]> {
  const seconds = contenders.map((): number[] => []);
  for (let step = 0; step <= count; step++) {
    for (const [i, contender] of contenders.entries()) {
      const answer = await contender.ask<{ seconds: number }>({ step });
      if (step > 0) seconds[i].push(answer.seconds);
      note(`  ${step === 0 ? 'warm-up' : `${step}/${count}`}  ${contender.name} ${answer.seconds.toFixed(2)} s`);
    }
  }
  const reports = [];
  for (const contender of contenders) reports.push(await contender.ask<{ peak_rss_gb: number }>({}));
  return reports.map(({ peak_rss_gb }, i) => ({ seconds: median(seconds[i]), peakGb: peak_rss_gb }));
}

/** The model is written here, where it is missing, so that it is not in a contender's peak. */
export async function contendersOf(run: Run, python: string): Promise<Record<'ours' | 'eager' | 'compiled', () => Contender>> {
  const folder = await syntheticModel(run.shape, storedAs(run));
  const known = { ...run, config: shapes[run.shape], folder, threads: availableParallelism() };
  return {
    ours: () => new Contender('ours', process.execPath, [ours('lora'), JSON.stringify(run)]),
    eager: () => new Contender('PEFT', python, [peer('lora'), JSON.stringify(known)]),
    compiled: () => new Contender('PEFT compiled', python, [peer('lora'), JSON.stringify({ ...known, compile: true })]),
  };
}

/** The bundled training examples as token ids, in batches of `size`; returns the file. */
async function ordersBatches(size: number): Promise<string> {
  const path = join(root, 'examples/orders/recipe.yaml');
  const recipe = await readRecipe(path, []);
  const source = await findQuickstartModel(new Terminal());
  const { train } = await prepareData(recipe, codecOf(source, recipe), await readDatasets(path, recipe.datasets), []);
  await source.checkpoint.close();
  const examples = train.map(({ inputIds, labels }) => ({ input_ids: [...inputIds], labels: [...labels] }));
  const batches = Array.from({ length: Math.floor(examples.length / size) }, (_, i) => examples.slice(i * size, (i + 1) * size));
  const folder = join(root, 'build/models');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'orders.json'), JSON.stringify(batches));
  return join(folder, 'orders.json');
}

async function measure(wanted: Case, bench: Bench, speed: boolean): Promise<{ lora: Row[]; memory: Row[] }> {
  const { name, goal } = wanted;
  const run = wanted.run.data ? { ...wanted.run, data: await ordersBatches(wanted.run.batch) } : wanted.run;
  bench.note(name);
  const start = await contendersOf(run, bench.python);
  const contenders = [start.ours(), start.eager(), ...(speed && goal.compiled ? [start.compiled()] : [])];
  // Real batches differ in size: whole rounds of several of them.
  const count = !speed ? 1 : run.data ? 3 * rounds : rounds;
  const measured = await alternate(contenders, count, bench.note).finally(() => Promise.all(contenders.map((c) => c.close())));
  const [mine, ...theirs] = measured;
  const figures = ({ seconds, peakGb }: Measured): Record<string, number> => ({
    ...(run.data ? { examples_per_second: round(run.batch / seconds) } : { tokens_per_second: round((run.batch * run.length) / seconds) }),
    step_seconds: round(seconds),
    peak_rss_gb: round(peakGb),
  });
  const work = run.data ? undefined : workOf(run);
  const peak = run.dtype === 'bf16' ? bench.peaks.bf16 : bench.peaks.f32;
  const share: Record<string, number> = work === undefined ? {} : { share: round(work / mine.seconds / peak) };
  const names = ['PEFT', 'PEFT compiled'];
  const lora = theirs.map((their, i) =>
    judged({
      case: `${name}: ${names[i]}`,
      ours: { ...figures(mine), ...share },
      peer: figures(their),
      speed: round(their.seconds / mine.seconds),
      memory: round(mine.peakGb / their.peakGb),
      goal: { speed: i === 0 ? goal.eager : goal.compiled, ...(i === 0 && goal.share ? { share: goal.share } : {}) },
    }),
  );
  const memory = judged({
    case: name,
    ours: { peak_rss_gb: round(mine.peakGb) },
    peer: { peak_rss_gb: round(theirs[0].peakGb) },
    memory: round(mine.peakGb / theirs[0].peakGb),
    goal: { memory: goal.memory },
  });
  return { lora, memory: [memory] };
}

/** Runs the cases once for both suites; without `lora` a case takes two steps. */
export async function loraSuites(bench: Bench, wanted: { lora: boolean }): Promise<{ lora: Row[]; memory: Row[] }> {
  const result: { lora: Row[]; memory: Row[] } = { lora: [], memory: [] };
  for (const entry of cases.filter(({ name }) => name.includes(bench.only ?? ''))) {
    const { lora, memory } = await measure(entry, bench, wanted.lora);
    result.lora.push(...lora);
    result.memory.push(...memory);
  }
  return result;
}
