import { type Batch, batchesOf, splitExamples, stepsPerEpoch } from '../data/batches.js';
import { howToConvert } from '../data/conversion.js';
import type { DatasetOptions } from '../data/formats/index.js';
import { type DataStatistics, type Example, prepareExamples } from '../data/prepare.js';
import { type Row, RowFile } from '../data/rows.js';
import type { TextCodec } from '../models/text-model.js';
import { LowrankError } from '../util/errors.js';
import type { Host } from './host.js';
import type { Recipe, RecipeDataset } from './recipe.js';

/** The rows of one entry of `datasets` or `test_datasets`. */
export interface DatasetRows {
  dataset: RecipeDataset;
  /** A file is read anew each time that one goes through its rows. */
  rows: RowFile | readonly Row[];
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

/** Finds a recipe's data sets. Their rows are read where they are used, so that a file may be larger than the memory. */
export function openDatasets(host: Host, datasets: readonly RecipeDataset[], { name, near }: Origin): Promise<DatasetRows[]> {
  return Promise.all(
    datasets.map(async (dataset) => {
      if (!/\.jsonl?$/.test(dataset.path)) {
        throw new LowrankError('not a data set that can be read', {
          place: `${name}: ${dataset.path}`,
          expected: 'a .jsonl or .json file',
          mend: howToConvert(dataset.path),
        });
      }
      const { path, bytes, read } = await host.openBytes(dataset.path, 'a data set', { near });
      return { dataset, rows: new RowFile(path, bytes, read) };
    }),
  );
}

/** The rows of a data set that are wanted (default: all), in memory. */
export async function gatherRows({ rows }: DatasetRows, wanted: (row: Row) => boolean = () => true): Promise<Row[]> {
  const gathered: Row[] = [];
  for await (const row of rows) if (wanted(row)) gathered.push(row);
  return gathered;
}

/** The options of a data set as the recipe as a whole sets them. */
export function datasetOptions(recipe: Recipe, { path: _, ...options }: RecipeDataset): DatasetOptions {
  return { ...options, train_on_inputs: recipe.train_on_inputs, eot_tokens: recipe.eot_tokens };
}

/**
 * Files from this size on are prepared in other threads, where the host has them: below it the threads would take longer to start, since
 * each needs a tokenizer of its own.
 */
const bytesForWorkers = 1 << 18;

export interface PrepareDataOptions {
  /** Has threads that prepare rows. */
  host?: Pick<Host, 'openRowWorkers'>;
  /** Ends the preparation with its reason. */
  signal?: AbortSignal;
  /** Ends after so many examples for training, and prepares no others: a preview. */
  atMost?: number;
}

/** Turns the rows of a recipe into examples. */
export async function prepareData(
  recipe: Recipe,
  { tokenizer, template }: TextCodec,
  datasets: readonly DatasetRows[],
  testDatasets: readonly DatasetRows[],
  { host, signal, atMost }: PrepareDataOptions = {},
): Promise<RunData> {
  const { sequence_len, excess_length_strategy, invalid_rows_strategy, val_set_size, seed } = recipe;
  const data: RunData = { train: [], held: [], statistics: [] };
  const bytes = [...datasets, ...testDatasets].reduce((sum, { rows }) => sum + (rows instanceof RowFile ? rows.bytes : 0), 0);
  const workers =
    bytes < bytesForWorkers ? undefined : await host?.openRowWorkers?.(tokenizer, template, Math.ceil(bytes / bytesForWorkers));
  try {
    for (const [entries, test] of [[datasets, false] as const, [testDatasets, true] as const]) {
      for (const { dataset, rows } of entries) {
        if (atMost !== undefined && data.train.length >= atMost) break;
        const strategies = { excess_length_strategy, invalid_rows_strategy };
        const limits = { sequence_len, atMost: atMost && atMost - data.train.length };
        const options = { ...limits, ...strategies, dataset: datasetOptions(recipe, dataset), name: dataset.path };
        const { examples, statistics } = await prepareExamples(rows, tokenizer, template, options, { workers, signal });
        for (const example of examples) (test ? data.held : data.train).push(example);
        data.statistics.push({ path: dataset.path, test, statistics });
      }
    }
  } finally {
    await workers?.close();
  }
  if (val_set_size > 0) {
    const { train, validation } = splitExamples(data.train, val_set_size, seed);
    data.train = train;
    data.held = data.held.concat(validation);
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

/** Tokens that are hashed together. */
const tokensPerHash = 1 << 22;

/** A hash of all token ids and labels: a resumed run must see the same data. Of much data it is a hash of hashes. */
export async function fingerprint({ train }: RunData): Promise<string> {
  const hashes: Uint8Array[] = [];
  for (let first = 0; first < train.length || first === 0; ) {
    const parts: Int32Array[] = [];
    let length = 0;
    while (first < train.length && length < tokensPerHash) {
      for (const { inputIds, labels } of train[first++].sequences) {
        parts.push(Int32Array.of(inputIds.length), inputIds, labels);
        length += 1 + 2 * inputIds.length;
      }
    }
    hashes.push(await sha256(new Int32Array(length), parts));
    if (train.length === 0) break;
  }
  const digest = hashes.length === 1 ? hashes[0] : await sha256(new Uint8Array(32 * hashes.length), hashes);
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** SHA-256 over parts, laid end to end in `space`. */
async function sha256<T extends Int32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>>(
  space: T,
  parts: readonly ArrayLike<number>[],
): Promise<Uint8Array> {
  let at = 0;
  for (const part of parts) {
    space.set(part, at);
    at += part.length;
  }
  return new Uint8Array(await crypto.subtle.digest('SHA-256', space));
}
