import { dirname } from 'node:path';
import type { Question } from '../data/questions.js';
import { questionsOf } from '../data/questions.js';
import { type ExactMatch, exactMatch } from '../generate/exact-match.js';
import type { TextCodec } from '../models/text-model.js';
import { makeContract } from '../runs/contract.js';
import { type DatasetRows, datasetOptions, gatherRows, heldBatches, prepareData } from '../runs/data.js';
import { nodeHost, readRecipe } from '../runs/node.js';
import { loadOptionsOf, type Recipe, streamingOf } from '../runs/recipe.js';
import type { Session } from '../runs/session.js';
import { recipeTemplate, withSpecialTokens } from '../runs/template.js';
import { evaluateLoss } from '../train/step.js';
import { LowrankError } from '../util/errors.js';
import { counted } from '../util/format.js';
import type { Terminal } from './console.js';
import { interruptible } from './interrupt.js';
import { attachAdapter, codecOf, findModel, openDatasets, openSession } from './session.js';

export interface EvalOptions {
  json?: boolean;
  device?: string;
  adapter?: string;
  limit?: number;
}

/** `lowrank eval RECIPE.yaml`: loss, perplexity and exact match on the held-out data. */
export async function evalCommand(terminal: Terminal, path: string, overrides: string[], options: EvalOptions): Promise<void> {
  const recipe = await readRecipe(path, overrides);
  const tests = await openDatasets(path, recipe.test_datasets ?? []);
  const datasets = recipe.val_set_size > 0 || tests.length === 0 ? await openDatasets(path, recipe.datasets) : [];
  const base = await findModel(terminal, recipe.base_model, { revision: recipe.revision_of_model, near: dirname(path) });
  const source = withSpecialTokens(base, recipe.special_tokens);
  const jinja = await recipeTemplate(recipe, source, { host: nodeHost, near: dirname(path) });
  const codec = await codecOf(source, options.adapter, jinja);
  if (jinja !== undefined && jinja !== codec.jinja)
    terminal.warn('the recipe’s chat template is not the one that was trained with: the trained one counts');
  const data = await prepareData(recipe, codec, datasets, tests, { host: nodeHost });
  if (data.held.length === 0) {
    throw new LowrankError('the recipe holds nothing out', { place: path, mend: 'add test_datasets, or val_set_size=0.1' });
  }
  // A model that says nothing of its training is expected to end as the rows do.
  codec.contract ??= makeContract(recipe, source, codec, data);
  const session = await openSession(terminal, source, codec, {
    device: options.device,
    ...loadOptionsOf(recipe),
    streaming: streamingOf(recipe),
  });
  try {
    const adapter = options.adapter === undefined ? undefined : await attachAdapter(terminal, session, options.adapter);
    const held = new Set(data.held.map(({ row }) => row));
    const questions = (await heldQuestions(recipe, codec, [...datasets, ...tests], held)).slice(0, options.limit);
    await interruptible(terminal, 'stopping', async (signal) => {
      const batches = heldBatches(recipe, data);
      const onBatch = (done: number) => terminal.bar(done / batches.length, 'loss');
      const { loss, perplexity, tokens } = await evaluateLoss(session.text.model, batches, { signal, onBatch });
      const match = questions.length === 0 ? undefined : await measureExactMatch(terminal, session, recipe, questions, signal);
      const exact = match && `\nexact match  ${(100 * match.exact_match).toFixed(1)} % of ${questions.length}`;
      terminal.result(
        {
          model: source.name,
          adapter: options.adapter ?? null,
          loss,
          perplexity,
          tokens,
          exact_match: match?.exact_match ?? null,
          questions: questions.length,
        },
        `model        ${source.name}${options.adapter ? ` with ${options.adapter}` : ''}\nloss         ${loss.toFixed(4)} over ` +
          `${counted(tokens, 'token')}\nperplexity   ${perplexity.toFixed(3)}${exact ?? ''}`,
      );
    });
    adapter?.dispose();
  } finally {
    await session.close();
  }
}

/** The held-out rows as questions. */
export async function heldQuestions(
  recipe: Recipe,
  codec: TextCodec,
  entries: readonly DatasetRows[],
  held: ReadonlySet<string>,
): Promise<Question[]> {
  const questions: Question[][] = [];
  for (const entry of entries) {
    const rows = await gatherRows(entry, ({ place }) => held.has(place));
    questions.push(questionsOf(rows, codec.tokenizer, codec.template, datasetOptions(recipe, entry.dataset)));
  }
  return questions.flat();
}

/** Answers generated together: enough to use the weights well each time they are read. */
const answersAtOnce = 32;

/** Exact match with a bar; `whole` as in `exactMatch`. */
export async function measureExactMatch(
  terminal: Terminal,
  session: Session,
  recipe: Recipe,
  questions: readonly Question[],
  signal: AbortSignal,
  whole?: number,
): Promise<ExactMatch> {
  const onProgress = (done: number, total: number) => terminal.bar(done / total, `answers ${done}/${total}`);
  const options = { max_new_tokens: recipe.eval_max_new_tokens, batch: answersAtOnce, whole, signal, onProgress };
  const match = await exactMatch(session.text, questions, options);
  terminal.clearBar();
  return match;
}
