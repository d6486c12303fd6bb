/**
 * The suites `lora` and `memory`: LoRA steps (r 16 on all linear layers, AdamW) of ours, of PyTorch + PEFT as its users run it, and of the
 * same under torch.compile. All live at once and take turns, one step each; a figure is the median.
 *
 * Where the instruction set has products of bf16, both sides run in the case's dtype. Where it has not, PEFT runs in fp32, its faster mode
 * there (bench/instructions.ts), ours in both, of which the faster counts, or at like speed the smaller.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Terminal } from '#lowrank/cli/console.js';
import { findQuickstartModel } from '#lowrank/cli/quickstart-model.js';
import { openDatasets } from '#lowrank/cli/session.js';
import '#lowrank/index.js';
import { openTextCodec } from '#lowrank/models/text-model.js';
import { prepareData } from '#lowrank/runs/data.js';
import { readRecipe } from '#lowrank/runs/node.js';
import { Contender, median } from './contender.js';
import { type Run, shapes, stepWork, storedAs, syntheticModel } from './shapes.js';
import { type Bench, judged, ours, peer, type Row, root, round } from './suite.js';

interface Case {
  name: string;
  run: Run;
  /** Whether PEFT is measured under torch.compile too. */
  compiled?: boolean;
  /** Against PEFT eager and compiled; whole-step share of the machine's peak; peak resident memory against PEFT eager. */
  goal: { eager: number; compiled?: number; share?: number; memory: number };
}

const small: Run = { shape: 'smol135', dtype: 'bf16', batch: 4, length: 512 };
/** Without products of bf16. */
const plainCases: Case[] = [
  { name: '135M, 4 × 512', run: small, compiled: true, goal: { eager: 1.3, memory: 0.35 } },
  { name: '1.1B, 1 × 512', run: { ...small, shape: 'tiny1b', batch: 1 }, goal: { eager: 1.2, memory: 0.37 } },
];
const cases: Case[] = [
  { name: '135M bf16, 4 × 512', run: small, compiled: true, goal: { eager: 2.1, compiled: 1.65, share: 0.55, memory: 0.4 } },
  { name: '135M bf16, 4 × 512, checkpointed', run: { ...small, checkpointing: true }, goal: { eager: 2, memory: 0.35 } },
  {
    name: '135M bf16, 4 × 512, half supervised',
    run: { ...small, supervised: 0.5 },
    compiled: true,
    goal: { eager: 2.3, compiled: 1.8, memory: 0.4 },
  },
  {
    name: '1.1B bf16, 1 × 512',
    run: { ...small, shape: 'tiny1b', batch: 1 },
    compiled: true,
    goal: { eager: 1.4, compiled: 1.2, share: 0.68, memory: 0.8 },
  },
  { name: '135M fp32, 4 × 512', run: { ...small, dtype: 'fp32' }, compiled: true, goal: { eager: 2.2, compiled: 1.7, memory: 0.4 } },
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
export async function contendersOf(run: Run, python: string): Promise<Record<'ours' | 'eager' | 'compiled', (name?: string) => Contender>> {
  const folder = await syntheticModel(run.shape, storedAs(run));
  const known = { ...run, config: shapes[run.shape], folder, threads: availableParallelism() };
  return {
    ours: (name = 'ours') => new Contender(name, process.execPath, [ours('lora'), JSON.stringify(run)]),
    eager: (name = 'PEFT') => new Contender(name, python, [peer('lora'), JSON.stringify(known)]),
    compiled: (name = 'PEFT compiled') => new Contender(name, python, [peer('lora'), JSON.stringify({ ...known, compile: true })]),
  };
}

/** The bundled training examples as token ids, in batches of `size`; returns the file. */
async function ordersBatches(size: number): Promise<string> {
  const path = join(root, 'examples/orders/recipe.yaml');
  const recipe = await readRecipe(path, []);
  const source = await findQuickstartModel(new Terminal());
  const { train } = await prepareData(recipe, openTextCodec(source), await openDatasets(path, recipe.datasets), []);
  await source.checkpoint.close();
  const examples = train.map(({ sequences: [{ inputIds, labels }] }) => ({ input_ids: [...inputIds], labels: [...labels] }));
  const batches = Array.from({ length: Math.floor(examples.length / size) }, (_, i) => examples.slice(i * size, (i + 1) * size));
  const folder = join(root, 'build/models');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'orders.json'), JSON.stringify(batches));
  return join(folder, 'orders.json');
}

/** A measured mode of ours or PEFT's. */
interface Mode extends Measured {
  dtype: Run['dtype'];
}

/** The steps of one case: ours in each dtype, PEFT, and PEFT compiled where that is wanted. */
async function takeSteps({ run, compiled }: Case, bench: Bench, speed: boolean): Promise<{ own: Mode[]; peft: Mode[] }> {
  const { bf16 } = bench.instructions;
  const dtypes: Run['dtype'][] = bf16 ? [run.dtype] : ['bf16', 'fp32'];
  const peerDtype = bf16 ? run.dtype : 'fp32';
  const contenders: Contender[] = [];
  try {
    for (const dtype of dtypes) contenders.push((await contendersOf({ ...run, dtype }, bench.python)).ours(`ours ${dtype}`));
    const theirs = await contendersOf({ ...run, dtype: peerDtype }, bench.python);
    contenders.push(theirs.eager());
    if (speed && compiled) contenders.push(theirs.compiled());
    // Real batches differ in size: whole rounds of several of them.
    const measured = await alternate(contenders, !speed ? 1 : run.data ? 3 * rounds : rounds, bench.note);
    return {
      own: dtypes.map((dtype, i) => ({ ...measured[i], dtype })),
      peft: measured.slice(dtypes.length).map((mode) => ({ ...mode, dtype: peerDtype })),
    };
  } finally {
    await Promise.all(contenders.map((contender) => contender.close()));
  }
}

async function measure(wanted: Case, bench: Bench, speed: boolean): Promise<{ lora: Row[]; memory: Row[] }> {
  const { name, goal } = wanted;
  const run = wanted.run.data ? { ...wanted.run, data: await ordersBatches(wanted.run.batch) } : wanted.run;
  bench.note(name);
  const { own, peft } = await takeSteps({ ...wanted, run }, bench, speed);
  const fastest = Math.min(...own.map(({ seconds }) => seconds));
  const mine = own.filter(({ seconds }) => seconds <= 1.05 * fastest).reduce((best, mode) => (mode.peakGb < best.peakGb ? mode : best));
  const rateOf = ({ seconds }: Measured) => round((run.batch * (run.data ? 1 : run.length)) / seconds);
  const figures = (mode: Measured): Record<string, number> => ({
    [run.data ? 'examples_per_second' : 'tokens_per_second']: rateOf(mode),
    step_seconds: round(mode.seconds),
    peak_rss_gb: round(mode.peakGb),
  });
  const others = own.filter((mode) => mode !== mine);
  const other = Object.fromEntries(
    others.flatMap((mode) => Object.entries(figures(mode)).map(([key, value]) => [`${mode.dtype}_${key}`, value])),
  );
  const peak = mine.dtype === 'bf16' ? bench.peaks.bf16 : bench.peaks.f32;
  const share: Record<string, number> = run.data ? {} : { share: round((await stepWork(run)) / mine.seconds / peak) };
  const dtypes = bench.instructions.bf16 ? {} : { dtypes: { ours: mine.dtype, peer: peft[0].dtype } };
  const names = ['PEFT', 'PEFT compiled'];
  const goals: Row['goal'][] = [
    { speed: goal.eager, ...(goal.share ? { share: goal.share } : {}) },
    goal.compiled ? { speed: goal.compiled } : {},
  ];
  const lora = peft.map((their, i) =>
    judged({
      case: `${name}: ${names[i]}`,
      ours: { ...figures(mine), ...share, ...other },
      peer: figures(their),
      ...dtypes,
      speed: round(their.seconds / mine.seconds),
      memory: round(mine.peakGb / their.peakGb),
      goal: goals[i],
    }),
  );
  const memory = judged({
    case: name,
    ours: { peak_rss_gb: round(mine.peakGb) },
    peer: { peak_rss_gb: round(peft[0].peakGb) },
    ...dtypes,
    memory: round(mine.peakGb / peft[0].peakGb),
    goal: { memory: goal.memory },
  });
  return { lora, memory: [memory] };
}

/** Runs the cases once for both suites; without `lora` a case takes two steps. */
export async function loraSuites(bench: Bench, wanted: { lora: boolean }): Promise<{ lora: Row[]; memory: Row[] }> {
  const result: { lora: Row[]; memory: Row[] } = { lora: [], memory: [] };
  for (const entry of (bench.instructions.bf16 ? cases : plainCases).filter(({ name }) => name.includes(bench.only ?? ''))) {
    const { lora, memory } = await measure(entry, bench, wanted.lora);
    result.lora.push(...lora);
    result.memory.push(...memory);
  }
  return result;
}
