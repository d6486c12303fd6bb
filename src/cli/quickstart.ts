import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Question } from '../data/questions.js';
import type { ExactMatch } from '../generate/exact-match.js';
import type { ModelSource } from '../io/model-source.js';
import { localFolder } from '../io/node/folder.js';
import { commonSystem, makeContract } from '../runs/contract.js';
import { type DatasetRows, gatherRows, heldBatches, prepareData, type RunData } from '../runs/data.js';
import type { TrainEvent, TrainResult } from '../runs/events.js';
import { nodeHost, readRecipe } from '../runs/node.js';
import { loadOptionsOf, type Recipe } from '../runs/recipe.js';
import { dataEvents } from '../runs/run.js';
import { openDevice, type Session } from '../runs/session.js';
import { openRunCodec } from '../runs/template.js';
import { type Trained, train } from '../runs/train.js';
import { countAnswered } from '../train/step.js';
import { duration, type Terminal, thousands } from './console.js';
import { heldQuestions, measureExactMatch } from './eval.js';
import { interruptedExitCode, interruptible } from './interrupt.js';
import { findQuickstartModel } from './quickstart-model.js';
import { tellOfCompiler, tinyOrders } from './quickstart-tiny.js';
import { outcome, runListener } from './run-listener.js';
import { contextOf, openDatasets, openSession } from './session.js';

const recipePath = resolve(dirname(fileURLToPath(import.meta.url)), '../../examples/orders/recipe.yaml');
/** Answers shown side by side. */
const shown = 3;
/** Steps that are measured before the first estimate. */
const measuredSteps = 3;
/** Steps between checks. A check ends with the batch in which it fails, so that few cost more than a third of a step. */
const checkEvery = 5;
/** In what a quickstart differs from the recipe: rows that tell when to end, and a rate that gets there in fewer steps. */
const hurried = ['val_set_size=32', 'learning_rate=0.002'];
/** The share of the validation rows that may be wrong where training ends. */
const wrongShare = 1 / 16;

/** What a quickstart trains. */
export interface QuickstartJob {
  recipe: Recipe;
  source: ModelSource;
  datasets: DatasetRows[];
  tests: DatasetRows[];
}

/** `lowrank quickstart`: a small model learns to turn orders into JSON; before, training, after. */
export async function quickstartCommand(terminal: Terminal, overrides: string[], options: { device?: string }): Promise<void> {
  const backend = await openDevice(options.device, contextOf(terminal));
  await backend.close();
  const plain = backend.name === 'reference';
  if (plain) tellOfCompiler(terminal, options.device === undefined);
  const job = plain ? await tinyOrders(overrides) : await orders(terminal, overrides);
  await quickstart(terminal, job, backend.name);
}

async function orders(terminal: Terminal, overrides: string[]): Promise<QuickstartJob> {
  const recipe = await readRecipe(recipePath, [...hurried, ...overrides]);
  const datasets = await openDatasets(recipePath, recipe.datasets);
  const tests = await openDatasets(recipePath, recipe.test_datasets ?? []);
  return { recipe, datasets, tests, source: await findQuickstartModel(terminal) };
}

/** Before, training, after. */
export async function quickstart(terminal: Terminal, job: QuickstartJob, device: string): Promise<void> {
  const { recipe, source, datasets, tests } = job;
  terminal.note(`model      ${source.name}`);
  const codec = await openRunCodec(source, recipe, { host: nodeHost });
  const data = await prepareData(recipe, codec, datasets, tests);
  const report = runListener(terminal);
  for (const event of dataEvents(recipe, data)) report(event);
  codec.contract = makeContract(recipe, source, codec, data);
  const session = await openSession(terminal, source, codec, { device, ...loadOptionsOf(recipe) });
  terminal.note(`device     ${session.backend.description}`);
  try {
    const questions = await heldQuestions(recipe, codec, tests, new Set(data.held.map(({ row }) => row)));
    await interruptible(terminal, 'finishing the step under way, then saving', async (signal) => {
      const before = await measureExactMatch(terminal, session, recipe, questions, signal, shown);
      terminal.note(`before     the base model answers ${percent(before.exact_match)} of ${questions.length} held-out orders exactly`);
      const { tuner, result } = await trainUntilAnswered(terminal, session, job, data, signal);
      if (result.interrupted) {
        terminal.note(`interrupted after step ${result.steps}; saved in ${localFolder(recipe.output_dir).path}`);
        process.exitCode = interruptedExitCode;
        return;
      }
      terminal.note(`stopped    ${endOf(result)}`);
      terminal.note(`trained    ${result.steps} steps in ${duration(result.seconds)}, ${thousands(result.tokens_per_second)} tokens/s`);
      const after = await measureExactMatch(terminal, session, recipe, questions, signal, shown);
      terminal.note(`after      the tuned model answers ${terminal.colors.bold(percent(after.exact_match))} exactly\n`);
      showAnswers(terminal, questions, before, after);
      const [kind] = outcome(result);
      const folder = resolve(localFolder(recipe.output_dir).path);
      const files = kind === 'adapter' ? 'adapter_model.safetensors, adapter_config.json' : 'model.safetensors, config.json';
      terminal.note(`${kind.padEnd(10)} ${folder} (${files})`);
      const system = await commonSystem(recipe, datasets);
      terminal.note(`talk to it npx lowrank chat --${kind} ${recipe.output_dir}${system === undefined ? '' : ` --system "${system}"`}`);
      terminal.result(
        {
          model: source.name,
          device: session.backend.description,
          base_exact_match: before.exact_match,
          tuned_exact_match: after.exact_match,
          steps: result.steps,
          total_steps: result.total_steps,
          stopped: endOf(result),
          train_seconds: result.seconds,
          tokens_per_second: result.tokens_per_second,
          peak_rss_gb: nodeHost.machine().peak / 1e9,
          [`${kind}_dir`]: folder,
        },
        '',
      );
      tuner.dispose();
    });
  } finally {
    await session.close();
  }
}

/** Trains until the rows that val_set_size split off are answered, or to the recipe's end. The test rows are for before and after alone. */
async function trainUntilAnswered(
  terminal: Terminal,
  { source, text }: Session,
  { recipe, tests }: QuickstartJob,
  data: RunData,
  signal: AbortSignal,
): Promise<Trained> {
  const testRows = new Set((await Promise.all(tests.map((entry) => gatherRows(entry)))).flat().map(({ place }) => place));
  const validation = { ...data, held: data.held.filter(({ row }) => !testRows.has(row)) };
  const rows = validation.held.length;
  const misses = Math.floor(rows * wrongShare);
  const report = runListener(terminal);
  let left = '';
  const onEvent = (event: TrainEvent) => {
    report(event);
    if (event.type !== 'step') return;
    const { record, progress } = event;
    left = `at most ${duration(progress.remaining_seconds)} to go`;
    if (record.step !== measuredSteps) return;
    const early = rows === 0 ? '' : `; ends when ${rows - misses} of ${rows} are answered`;
    terminal.note(`estimate   ${record.seconds.toFixed(1)} s a step, ${left}${early}`);
  };
  const stopAfter = async (step: number) => {
    if (rows === 0 || step % checkEvery > 0) return undefined;
    const { answered, examples } = await countAnswered(text.model, heldBatches(recipe, validation), { misses });
    if (examples - answered <= misses) return `validation answered ${answered} of ${examples} after ${step} steps`;
    terminal.note(`check      step ${step}: ${answered} of ${examples} validation rows answered, ${left}`);
    return undefined;
  };
  const folder = localFolder(recipe.output_dir);
  return train({ recipe, source, text, data: validation, folder, overwrite: true, signal, onEvent, stopAfter });
}

function endOf({ stopped, steps }: TrainResult): string {
  return stopped ?? `all ${steps} steps`;
}

function showAnswers(terminal: Terminal, questions: readonly Question[], before: ExactMatch, after: ExactMatch): void {
  const { colors } = terminal;
  for (const [i, { question, answer }] of questions.slice(0, shown).entries()) {
    terminal.note(`${colors.bold('order')}      ${question}`);
    terminal.note(`  wanted   ${answer}`);
    terminal.note(`  before   ${colors.red(oneLine(before.answers[i], terminal.width - 11))}`);
    terminal.note(`  after    ${colors.green(oneLine(after.answers[i], 500))}\n`);
  }
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

function oneLine(text: string, width: number): string {
  const line = text.trim().replace(/\s+/g, ' ');
  return line.length > width ? `${line.slice(0, width - 1)}…` : line;
}
