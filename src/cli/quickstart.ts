import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { localFolder } from '../io/node/folder.js';
import { prepareData } from '../train/data.js';
import { loadOptionsOf } from '../train/recipe.js';
import { train } from '../train/run.js';
import { duration, peakMemory, type Terminal, thousands } from './console.js';
import { heldQuestions, measureExactMatch } from './eval.js';
import { interruptedExitCode, interruptible } from './interrupt.js';
import { findQuickstartModel } from './quickstart-model.js';
import { codecOf, openSession, readDatasets, readRecipe } from './session.js';
import { describeData, outcome, trainReporter } from './train.js';

const recipePath = resolve(dirname(fileURLToPath(import.meta.url)), '../../examples/orders/recipe.yaml');
/** Answers shown side by side. */
const shown = 3;

/** `lowrank quickstart`: a small model learns to turn orders into JSON; before, training, after. */
export async function quickstartCommand(terminal: Terminal, overrides: string[], options: { device?: string }): Promise<void> {
  const recipe = await readRecipe(recipePath, overrides);
  const { colors } = terminal;
  const datasets = await readDatasets(recipePath, recipe.datasets);
  const tests = await readDatasets(recipePath, recipe.test_datasets ?? []);
  const source = await findQuickstartModel(terminal);
  terminal.note(`model      ${source.name}`);
  const codec = codecOf(source, recipe);
  const data = await prepareData(recipe, codec, datasets, tests);
  describeData(terminal, recipe, data);
  const session = await openSession(terminal, source, codec, { device: options.device, ...loadOptionsOf(recipe) });
  terminal.note(`device     ${session.backend.description}`);
  try {
    const questions = heldQuestions(recipe, codec, tests, new Set(data.held.map(({ row }) => row)));
    await interruptible(terminal, 'finishing the step under way, then saving', async (signal) => {
      const before = await measureExactMatch(terminal, session, recipe, questions, signal);
      terminal.note(`before     the base model answers ${percent(before.exact_match)} of ${questions.length} held-out orders exactly`);
      const folder = localFolder(recipe.output_dir);
      const run = { recipe, source, text: session.text, data, folder, signal, onEvent: trainReporter(terminal, recipe) };
      const { tuner, result } = await train(run);
      if (result.interrupted) {
        terminal.note(`interrupted after step ${result.steps}; saved in ${folder.path}`);
        process.exitCode = interruptedExitCode;
        return;
      }
      terminal.note(`trained    ${result.steps} steps in ${duration(result.seconds)}, ${thousands(result.tokens_per_second)} tokens/s`);
      const after = await measureExactMatch(terminal, session, recipe, questions, signal);
      terminal.note(`after      the tuned model answers ${colors.bold(percent(after.exact_match))} exactly\n`);
      for (const [i, { question, answer }] of questions.slice(0, shown).entries()) {
        terminal.note(`${colors.bold('order')}      ${question}`);
        terminal.note(`  wanted   ${answer}`);
        terminal.note(`  before   ${colors.red(oneLine(before.answers[i], terminal.width - 11))}`);
        terminal.note(`  after    ${colors.green(oneLine(after.answers[i], 500))}\n`);
      }
      const [kind] = outcome(result);
      const resultDir = resolve(folder.path);
      const files = kind === 'adapter' ? 'adapter_model.safetensors, adapter_config.json' : 'model.safetensors, config.json';
      terminal.note(`${kind.padEnd(10)} ${resultDir} (${files})`);
      terminal.note(`talk to it npx lowrank chat --${kind} ${recipe.output_dir} --system "${systemOf(datasets[0].rows[0]?.value)}"`);
      terminal.result(
        {
          base_exact_match: before.exact_match,
          tuned_exact_match: after.exact_match,
          train_seconds: result.seconds,
          tokens_per_second: result.tokens_per_second,
          peak_rss_gb: peakMemory() / 1e9,
          [`${kind}_dir`]: resultDir,
        },
        '',
      );
      tuner.dispose();
    });
  } finally {
    await session.close();
  }
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

function oneLine(text: string, width: number): string {
  const line = text.trim().replace(/\s+/g, ' ');
  return line.length > width ? `${line.slice(0, width - 1)}…` : line;
}

/** The system message of a row of the data set, which the model was trained with. */
function systemOf(row: unknown): string {
  const messages = (row as { messages?: { role: string; content: string }[] } | undefined)?.messages ?? [];
  return messages.find(({ role }) => role === 'system')?.content ?? '';
}
