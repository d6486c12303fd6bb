import { LowrankError } from '../util/errors.js';
import { counted } from '../util/format.js';
import { Random, streams } from '../util/philox.js';
import type { Example, Sequence } from './prepare.js';

/** Whole examples laid end to end: no padding, and attention does not cross from one sequence to the next. */
export interface Batch {
  /** [T] */
  inputIds: Int32Array;
  /** [T], the token to be predicted at each position, −100 where none is; never a token of the next sequence. */
  labels: Int32Array;
  /** [T], the position in its sequence, from 0. */
  positions: Int32Array;
  /** [S,4]: (query start, query end, key start, key end) of each sequence; both ranges are the sequence's tokens. */
  segments: Int32Array;
  /** [S], the example of the batch that each sequence belongs to, from 0 on. */
  exampleOf: Int32Array;
  /** Labels that are not −100. */
  supervised: number;
  examples: number;
}

/** The names are Axolotl's. */
export interface BatchOptions {
  /** Needed for sample_packing. */
  sequence_len: number;
  micro_batch_size: number;
  gradient_accumulation_steps: number;
  /** Fill batches up to sequence_len × micro_batch_size tokens, instead of micro_batch_size examples each; default false. */
  sample_packing?: boolean;
  /** Put examples of similar length together; default false. */
  group_by_length?: boolean;
  /** Default true; false keeps the order of the data. */
  shuffle?: boolean;
  seed: number;
}

/** The shuffle streams below `splitStream` are the epochs'. */
const splitStream = streams.shuffle + 0xfff_ffff;

/** Optimizer steps of one epoch, each a list of micro-batches; the same for the same seed and epoch. */
export function batchesOf(examples: readonly Example[], options: BatchOptions, epoch: number): Batch[][] {
  const { gradient_accumulation_steps: accumulation } = options;
  const batches = group(examples, options, epoch).map(concatenate);
  return chunks(batches, accumulation);
}

/** How many optimizer steps an epoch has: the same for every epoch, since packing depends on the lengths only. */
export function stepsPerEpoch(examples: readonly Example[], options: BatchOptions): number {
  return chunks(group(examples, options, 0), options.gradient_accumulation_steps).length;
}

/**
 * Splits off evaluation examples: a share below 1, of which at least one comes, or a number. The choice depends on the seed only; both
 * parts keep the data's order. Throws where nothing would be left to train.
 */
export function splitExamples(examples: readonly Example[], valSetSize: number, seed: number): { train: Example[]; validation: Example[] } {
  // A share is asked for: some example is held out, however few there are.
  const count = valSetSize > 0 && valSetSize < 1 ? Math.max(1, Math.round(examples.length * valSetSize)) : valSetSize;
  if (!(valSetSize >= 0) || !Number.isInteger(count) || count >= examples.length) {
    throw new LowrankError(`${valSetSize} of ${counted(examples.length, 'example')} leaves none to train`, {
      place: 'val_set_size',
      expected: 'a share below 1, or a whole number below the number of examples',
      mend: 'lower it',
    });
  }
  const order = new Random(seed, splitStream).shuffle(examples.map((_, i) => i));
  const chosen = new Set(order.slice(0, count));
  return { train: examples.filter((_, i) => !chosen.has(i)), validation: examples.filter((_, i) => chosen.has(i)) };
}

/** The examples of each micro-batch, in the order of training. */
function group(examples: readonly Example[], options: BatchOptions, epoch: number): Example[][] {
  const { sequence_len, micro_batch_size, seed, shuffle = true, sample_packing = false, group_by_length = false } = options;
  const random = new Random(seed, streams.shuffle + epoch);
  let ordered = [...examples];
  if (shuffle) random.shuffle(ordered);
  if (!sample_packing && !group_by_length) return chunks(ordered, micro_batch_size);
  // A stable sort: examples of one length stay shuffled.
  ordered = ordered.sort((a, b) => lengthOf(b) - lengthOf(a));
  const groups = sample_packing ? pack(ordered, sequence_len * micro_batch_size) : chunks(ordered, micro_batch_size);
  return shuffle ? random.shuffle(groups) : groups;
}

/**
 * First-fit decreasing: each example, longest first, goes into the first batch that has room for it. A tree over the batches, whose
 * nodes hold the largest room below them, finds that batch in logarithmic time.
 */
function pack(ordered: readonly Example[], capacity: number): Example[][] {
  const leaves = 2 ** Math.ceil(Math.log2(Math.max(1, ordered.length)));
  const room = new Int32Array(2 * leaves).fill(capacity);
  const groups: Example[][] = [];
  for (const example of ordered) {
    const length = lengthOf(example);
    if (length > capacity) {
      const mend = 'raise sequence_len or micro_batch_size';
      throw new LowrankError(`the example has ${length} tokens, and a packed batch ${capacity}`, { place: example.row, mend });
    }
    let node = 1;
    while (node < leaves) node = room[2 * node] >= length ? 2 * node : 2 * node + 1;
    const index = node - leaves;
    groups[index] ??= [];
    groups[index].push(example);
    room[node] -= length;
    for (node >>= 1; node >= 1; node >>= 1) room[node] = Math.max(room[2 * node], room[2 * node + 1]);
  }
  return groups;
}

/** The tokens of all sequences of an example. */
function lengthOf({ sequences }: Example): number {
  return sequences.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
}

/** One batch out of examples. */
export function concatenate(examples: readonly Example[]): Batch {
  const sequences = examples.flatMap((example, index) => example.sequences.map((sequence): [Sequence, number] => [sequence, index]));
  const length = examples.reduce((sum, example) => sum + lengthOf(example), 0);
  const batch: Batch = {
    inputIds: new Int32Array(length),
    labels: new Int32Array(length).fill(-100),
    positions: new Int32Array(length),
    segments: new Int32Array(sequences.length * 4),
    exampleOf: Int32Array.from(sequences, ([, index]) => index),
    supervised: 0,
    examples: examples.length,
  };
  let start = 0;
  sequences.forEach(([{ inputIds, labels }], i) => {
    const end = start + inputIds.length;
    batch.inputIds.set(inputIds, start);
    // The token at t + 1 is what position t predicts; the last position of a sequence predicts nothing.
    batch.labels.set(labels.subarray(1), start);
    for (let t = start; t < end; t++) batch.positions[t] = t - start;
    batch.segments.set([start, end, start, end], i * 4);
    start = end;
  });
  batch.supervised = batch.labels.reduce((sum, label) => sum + (label === -100 ? 0 : 1), 0);
  return batch;
}

function chunks<T>(items: readonly T[], size: number): T[][] {
  if (!Number.isInteger(size) || size < 1) {
    throw new LowrankError(`${size} is not a batch size`, { expected: 'micro_batch_size and gradient_accumulation_steps of at least 1' });
  }
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}
