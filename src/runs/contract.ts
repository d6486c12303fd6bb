import { contractFile, framingOf, parseContract, type RunContract, supervisedTerminators } from '../data/contract.js';
import { type DatasetOptions, type DatasetType, detectType, readSample } from '../data/formats/index.js';
import type { Row } from '../data/rows.js';
import { stopIdsOf } from '../generate/text.js';
import type { Folder } from '../io/folder.js';
import { generationConfigOf } from '../io/model-folder.js';
import { type ModelSource, type ModelTexts, readTokenizerFiles } from '../io/model-source.js';
import { openTextCodec, type TextCodec } from '../models/text-model.js';
import { LowrankError } from '../util/errors.js';
import type { JsonObject } from '../util/json.js';
import { type DatasetRows, datasetOptions, type RunData } from './data.js';
import type { Recipe } from './recipe.js';

/** What a run on these data will have trained with: the codec's template and clock, the rows' formats, the ends that were supervised. */
export function makeContract(recipe: Recipe, source: ModelSource, codec: TextCodec, { train, held, statistics }: RunData): RunContract {
  const datasets = statistics.flatMap(({ path, test, statistics: { type, examples, read } }) =>
    test || type === undefined ? [] : [{ path, type, examples, read }],
  );
  // An evaluation may have test rows alone.
  const examples = train.length > 0 ? train : held;
  return {
    version: 1,
    base: { name: source.name, path: source.path, revision: source.revision, identity: source.identity },
    chat_template: codec.jinja,
    tool_use_template: codec.toolUse,
    clock: codec.clock,
    ...framingOf(datasets),
    datasets,
    terminators: supervisedTerminators(
      codec.tokenizer,
      examples,
      recipe.datasets.map((dataset) => datasetOptions(recipe, dataset)),
      recipe.eot_tokens,
    ),
  };
}

/** Rows that are looked at for a system message: no data set is read twice for it. */
const rowsForSystem = 100;

/**
 * The system message that the rows of all data sets begin with, as far as their first rows tell; undefined where they differ or have
 * none.
 */
export async function commonSystem(recipe: Recipe, datasets: readonly DatasetRows[]): Promise<string | undefined> {
  const found = new Set<string | undefined>();
  for (const { dataset, rows } of datasets) {
    const options = datasetOptions(recipe, dataset);
    let type: DatasetType | undefined;
    let left = rowsForSystem;
    try {
      for await (const row of rows) {
        type ??= detectType(row, options);
        found.add(systemOf(row, type, options));
        if (--left === 0 || found.size > 1) break;
      }
    } catch (error) {
      // A row that was left out when the examples were made; what the others have in common is not worth another look.
      if (error instanceof LowrankError) return undefined;
      throw error;
    }
  }
  return found.size === 1 ? [...found][0] : undefined;
}

function systemOf(row: Row, type: DatasetType, options: DatasetOptions): string | undefined {
  const sample = readSample(row, type, options);
  const [first] = sample.kind === 'conversation' ? sample.messages : [];
  const system = type === 'alpaca' ? row.value.system : first?.role === 'system' ? first.content : undefined;
  return typeof system === 'string' && system !== '' ? system : undefined;
}

/** The contract in the folder of a result or a checkpoint; undefined where something else made it. */
export async function readContract(folder: Folder): Promise<RunContract | undefined> {
  const text = await folder.readText(contractFile);
  return text === undefined ? undefined : parseContract(text, `${folder.path}/${contractFile}`);
}

/**
 * The codec of a model that answers with the adapter in `folder`: by the adapter's contract. An adapter that was made elsewhere has none;
 * then tokenizer files and a template that lie beside it count, as its makers expect, and else the model's own. `jinja` is a template for
 * where none of them has one.
 */
export async function openAdapterCodec(source: ModelTexts, folder: Folder, jinja?: string): Promise<TextCodec> {
  const names = await folder.list();
  const files = await readTokenizerFiles({
    name: folder.path,
    open: async (name) => (names.includes(name) ? folder.open(name) : undefined),
  });
  const contract = await readContract(folder);
  const own = files.chatTemplate !== undefined || files.tokenizerConfig?.chat_template !== undefined;
  const known = contract ?? (own ? null : source.contract);
  return openTextCodec(source, { files, contract: known, jinja: known?.chat_template ?? (own ? undefined : jinja) });
}

/**
 * What is written beside the weights of a result: the model's texts with the template that was trained, every end of an answer, and the
 * contract.
 */
export function resultTexts(source: ModelSource, codec: TextCodec): ModelTexts {
  const { name, config, processors } = source;
  const ends = [...stopIdsOf(codec, config)];
  const { _from_model_config: _, ...generation } = source.generationConfig ?? generationConfigOf(config);
  const generationConfig: JsonObject = ends.length === 0 ? generation : { ...generation, eos_token_id: ends.length === 1 ? ends[0] : ends };
  return { name, config, tokenizer: codec.files, generationConfig, contract: codec.contract, processors };
}
