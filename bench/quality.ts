/**
 * The suite `quality`: what fewer bits cost on a real model. The quickstart's data for 200 steps in fp32, in bf16, and over NF4 with double
 * quantisation: loss curves and exact match of the held-out questions; and the perplexity of the base over NF4 and FP4 on held-out text.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Terminal } from '#lowrank/cli/console.js';
import { heldQuestions, measureExactMatch } from '#lowrank/cli/eval.js';
import { findQuickstartModel } from '#lowrank/cli/quickstart-model.js';
import { openDatasets, openSession } from '#lowrank/cli/session.js';
import '#lowrank/index.js';
import { localFolder } from '#lowrank/io/node/folder.js';
import { openTextCodec } from '#lowrank/models/text-model.js';
import { prepareData } from '#lowrank/runs/data.js';
import { readRecipe } from '#lowrank/runs/node.js';
import { loadOptionsOf } from '#lowrank/runs/recipe.js';
import { train } from '#lowrank/runs/train.js';
import type { LabelledTokens } from '#lowrank/train/batch.js';
import { evaluateLoss } from '#lowrank/train/step.js';
import { type Bench, judged, type Row, root, round } from './suite.js';

const recipePath = join(root, 'examples/orders/recipe.yaml');
const steps = 200;
/** Steps whose losses are averaged into one point of a curve: single batches differ more than precisions do. */
const window = 20;

interface Outcome {
  losses: number[];
  exactMatch: number;
}

/** Trains with settings of the recipe's and answers the held-out questions. */
async function run(bench: Bench, name: string, overrides: readonly string[]): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), 'lowrank-quality-'));
  const recipe = await readRecipe(recipePath, [
    `output_dir=${folder}`,
    'num_epochs=4',
    `max_steps=${steps}`,
    'save_steps=1000',
    ...overrides,
  ]);
  const terminal = new Terminal();
  const [datasets, tests] = [await openDatasets(recipePath, recipe.datasets), await openDatasets(recipePath, recipe.test_datasets ?? [])];
  const source = await findQuickstartModel(terminal);
  const codec = openTextCodec(source);
  const data = await prepareData(recipe, codec, datasets, tests);
  const session = await openSession(terminal, source, codec, loadOptionsOf(recipe));
  try {
    const losses: number[] = [];
    const { tuner } = await train({
      recipe,
      source,
      text: session.text,
      data: { ...data, held: [] },
      folder: localFolder(folder),
      onEvent: (event) => {
        if (event.type === 'step') losses.push(event.record.loss);
      },
    });
    const questions = await heldQuestions(recipe, codec, tests, new Set(data.held.map(({ row }) => row)));
    const match = await measureExactMatch(terminal, session, recipe, questions, new AbortController().signal);
    tuner.dispose();
    bench.note(`  ${name}: loss ${losses.at(-1)?.toFixed(4)}, exact match ${(100 * match.exact_match).toFixed(1)} %`);
    return { losses, exactMatch: 100 * match.exact_match };
  } finally {
    await session.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Means of the losses of successive windows. */
function curve({ losses }: Outcome): number[] {
  return Array.from({ length: Math.floor(losses.length / window) }, (_, i) => {
    const part = losses.slice(i * window, (i + 1) * window);
    return part.reduce((sum, loss) => sum + loss, 0) / part.length;
  });
}

/** The largest distance of two curves. */
function distance(a: Outcome, b: Outcome): number {
  const other = curve(b);
  return Math.max(...curve(a).map((loss, i) => Math.abs(loss - other[i])));
}

/** The perplexity of the base on this project's own prose, which no model has been trained on, in pieces of 512 tokens. */
async function perplexity(bench: Bench, type: 'nf4' | 'fp4' | undefined): Promise<number> {
  const overrides = type ? ['adapter=qlora', `bnb_config_kwargs.bnb_4bit_quant_type=${type}`] : [];
  const recipe = await readRecipe(recipePath, overrides);
  const source = await findQuickstartModel(new Terminal());
  const codec = openTextCodec(source);
  const session = await openSession(new Terminal(), source, codec, loadOptionsOf(recipe));
  try {
    const text = ['ARCHITECTURE.md', 'docs/LOG.md'].map((name) => readFileSync(join(root, name), 'utf8')).join('\n');
    const ids = codec.tokenizer.encode(text);
    const length = 512;
    const pieces = Array.from({ length: Math.floor(ids.length / length) }, (_, i): LabelledTokens => {
      const inputIds = Int32Array.from(ids.slice(i * length, (i + 1) * length));
      const labels = Int32Array.from(inputIds, (_, at) => inputIds[at + 1] ?? -100);
      return { inputIds, labels, positions: Int32Array.from(inputIds.keys()), segments: Int32Array.of(0, length, 0, length) };
    });
    const { perplexity: value, tokens } = await evaluateLoss(session.text.model, pieces);
    bench.note(`  ${type ?? 'bf16'}: perplexity ${value.toFixed(3)} over ${tokens} tokens`);
    return value;
  } finally {
    await session.close();
  }
}

export async function qualitySuite(bench: Bench): Promise<Row[]> {
  const fp32 = await run(bench, 'fp32', ['bf16=false']);
  const bf16 = await run(bench, 'bf16', []);
  const nf4 = await run(bench, 'NF4 + double', ['adapter=qlora']);
  const figures = ({ losses, exactMatch }: Outcome) => ({ exact_match: round(exactMatch), last_loss: round(losses.at(-1) ?? 0) });
  const against = (name: string, mine: Outcome, other: Outcome, goal: Row['goal']) =>
    judged({
      case: name,
      ours: {
        ...figures(mine),
        curve_distance: round(distance(mine, other)),
        points_lost: round(Math.max(0, other.exactMatch - mine.exactMatch)),
      },
      peer: figures(other),
      goal,
    });
  const perplexities = {
    bf16: await perplexity(bench, undefined),
    nf4: await perplexity(bench, 'nf4'),
    fp4: await perplexity(bench, 'fp4'),
  };
  return [
    against('bf16 / fp32, 200 steps', bf16, fp32, { points_lost: 2, curve_distance: 0.01 }),
    against('NF4 + double / bf16, 200 steps', nf4, bf16, { points_lost: 2 }),
    judged({
      case: 'perplexity of the base, NF4 / FP4',
      ours: {
        perplexity: round(perplexities.nf4, 5),
        perplexity_bf16: round(perplexities.bf16, 5),
        ratio: round(perplexities.nf4 / perplexities.fp4, 5),
      },
      peer: { perplexity: round(perplexities.fp4, 5) },
      goal: { ratio: 1 },
    }),
  ];
}
