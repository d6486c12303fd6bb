import { type Batch, batchesOf, splitExamples, stepsPerEpoch } from '../data/batches.js';
import type { DatasetOptions } from '../data/formats.js';
import { type DataStatistics, type Example, prepareExamples } from '../data/prepare.js';
import { type Row, readRows } from '../data/rows.js';
import type { TextCodec } from '../models/text-model.js';
import { LowrankError } from '../util/errors.js';
import type { Host } from './host.js';
import type { Recipe, RecipeDataset } from './recipe.js';

/** The rows of one entry of `datasets` or `test_datasets`. */
export interface DatasetRows {
  dataset: RecipeDataset;
  rows: readonly Row[];
}

/** What a run trains on and is measured with. */
export interface RunData {
  train: Example[];
  /** From test_datasets, or split off by val_set_size; may be empty. */
  held: Example[];
  statistics: { path: string; test: boolean; statistics: DataStatistics }[];
}

/** Where a recipe comes from. */
export interface Origin {
  /** What errors call it: the file's path. */
  name: string;
  /** The folder that its relative paths begin at. */
  near?: string;
}

/** Reads the rows of a recipe's data sets. */
export function readDatasets(host: Host, datasets: readonly RecipeDataset[], { name, near }: Origin): Promise<DatasetRows[]> {
  return Promise.all(
    datasets.map(async (dataset) => {
      if (!/\.jsonl?$/.test(dataset.path)) {
        throw new LowrankError('not a data set that can be read', {
          place: `${name}: ${dataset.path}`,
          expected: 'a .jsonl or .json file',
          mend: 'convert it, or correct the path',
        });
      }
      const { path, text } = await host.readText(dataset.path, 'a data set', { near });
      return { dataset, rows: await readRows(text, path) };
    }),
  );
}

/** The options of a data set as the recipe as a whole sets them. */
export function datasetOptions(recipe: Recipe, { path: _, ...options }: RecipeDataset): DatasetOptions {
  return { ...options, train_on_inputs: recipe.train_on_inputs, eot_tokens: recipe.eot_tokens };
}

/** Turns all rows of a recipe into examples. */
export async function prepareData(
  recipe: Recipe,
  { tokenizer, template }: TextCodec,
  datasets: readonly DatasetRows[],
  testDatasets: readonly DatasetRows[],
): Promise<RunData> {
  const { sequence_len, excess_length_strategy, val_set_size, seed } = recipe;
  const data: RunData = { train: [], held: [], statistics: [] };
  for (const [entries, examples] of [[datasets, data.train] as const, [testDatasets, data.held] as const]) {
    for (const { dataset, rows } of entries) {
      const options = { sequence_len, excess_length_strategy, dataset: datasetOptions(recipe, dataset), name: dataset.path };
      const prepared = await prepareExamples(rows, tokenizer, template, options);
      examples.push(...prepared.examples);
      data.statistics.push({ path: dataset.path, test: entries === testDatasets, statistics: prepared.statistics });
    }
  }
  if (val_set_size > 0) {
    const { train, validation } = splitExamples(data.train, val_set_size, seed);
    data.train = train;
    data.held.push(...validation);
  }
  return data;
}

/** The micro-batches of each optimizer step of an epoch. */
export function trainingBatches(recipe: Recipe, { train }: RunData, epoch: number): Batch[][] {
  return batchesOf(train, { ...recipe, shuffle: recipe.shuffle_merged_datasets }, epoch);
}

/** Optimizer steps of an epoch and of the whole run. */
export function countSteps(recipe: Recipe, { train }: RunData): { steps_per_epoch: number; total_steps: number } {
  const steps_per_epoch = stepsPerEpoch(train, { ...recipe, shuffle: recipe.shuffle_merged_datasets });
  return { steps_per_epoch, total_steps: recipe.max_steps ?? Math.max(1, Math.ceil(steps_per_epoch * recipe.num_epochs)) };
}

/** The held-out examples in their order. */
export function heldBatches(recipe: Recipe, { held }: RunData): Batch[] {
  const { sequence_len, micro_batch_size, seed } = recipe;
  return batchesOf(held, { sequence_len, micro_batch_size, gradient_accumulation_steps: 1, shuffle: false, seed }, 0).flat();
}

/** A hash of all token ids and labels: a resumed run must see the same data. */
export async function fingerprint({ train }: RunData): Promise<string> {
  const parts = train.flatMap(({ sequences }) =>
    sequences.flatMap(({ inputIds, labels }) => [Int32Array.of(inputIds.length), inputIds, labels]),
  );
  const all = new Int32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', all));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
