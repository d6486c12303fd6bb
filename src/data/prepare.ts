import { LowrankError } from '../util/errors.js';
import { eventLoopTurns } from '../util/event-loop.js';
import { counted } from '../util/format.js';
import { type Encoder, encodeText } from './align.js';
import type { Draft, Labelled } from './chat.js';
import type { ChatTemplate } from './chat-template.js';
import { Checks, type Finding, mergeFindings } from './checks.js';
import { type DatasetOptions, type DatasetType, detectType, readSample } from './formats/index.js';
import { type InvalidRow, InvalidRows, type InvalidRowsStrategy, invalidRow } from './invalid-rows.js';
import { draftSample } from './labelling.js';
import { parseRow, type Row, RowFile, type RowText } from './rows.js';
import type { Tokenizer } from './tokenizer.js';

/** The tokens of one text. */
export interface Sequence {
  /** [T] */
  inputIds: Int32Array;
  /** [T]: the token at its own position where it is supervised, otherwise −100; the loss shifts them. */
  labels: Int32Array;
}

/** One training example: a sequence, or several that stay together in a batch, such as a chosen and a rejected answer. */
export interface Example {
  sequences: readonly Sequence[];
  /** Where it comes from: `file:line`. */
  row: string;
}

export interface PrepareOptions {
  /** The longest example, in tokens. */
  sequence_len: number;
  /** What happens to longer ones; default: drop. */
  excess_length_strategy?: 'drop' | 'truncate' | 'raise';
  /** What happens to rows that cannot be read or that the chat template refuses; default: raise. */
  invalid_rows_strategy?: InvalidRowsStrategy;
  dataset?: DatasetOptions;
  /** Ends after so many examples, and prepares no others: a preview. */
  atMost?: number;
  /** What errors about all rows name: the file. */
  name?: string;
}

export interface DataStatistics {
  rows: number;
  examples: number;
  tokens: number;
  supervised: number;
  /** Rows left out: longer than sequence_len, or cut so that nothing supervised was left; */
  dropped: number;
  /** the latter alone. */
  emptied: number;
  /** Rows left out because they are invalid, and the error of the first. */
  invalid: number;
  invalid_example?: string;
  /** Rows that were cut, and of these the ones that were cut within a trained text, whose end is not learnt. */
  truncated: number;
  unended: number;
  /** Of all rows before dropping and truncating, in tokens. */
  longest: number;
  /** Rows by length: those of more than half of `upTo` and at most `upTo` tokens. */
  histogram: { upTo: number; count: number }[];
  type?: DatasetType;
  /** The columns that were read. */
  read: string[];
  /** What of the rows did not reach the training as it stands. */
  findings: Finding[];
}

export interface PreparedData {
  examples: Example[];
  statistics: DataStatistics;
}

/** Rows to be prepared together, as they are written or read. */
export interface PrepareRequest {
  rows: readonly (Row | RowText)[];
  /** The file's name. */
  name: string;
  type: DatasetType;
  options: PrepareOptions;
}

/** What became of the rows of a request, in their order. Holds plain data, so that it can come from another thread. */
export interface PreparedRows {
  /** [T] and [T]: the tokens and labels of all examples, one after another. */
  inputIds: Int32Array;
  labels: Int32Array;
  /** [N] and [N]: where each example ends, and its row. */
  ends: number[];
  places: string[];
  /** Rows without any supervised token. */
  masked: string[];
  /** Rows that cannot be trained. */
  invalid: InvalidRow[];
  statistics: DataStatistics;
}

/** Prepares rows elsewhere, such as in threads: `prepareRows` is what it must come to. */
export interface RowWorkers {
  /** Requests that may be under way together. */
  readonly atOnce: number;
  prepare(request: PrepareRequest): Promise<PreparedRows>;
  /** Ends them, with what they are about. */
  close(): Promise<void>;
}

/** Rows that are prepared together, and characters after which there are enough of them. */
const rowsTogether = 256;
const charactersTogether = 1 << 18;

/**
 * Turns rows into examples, in `workers` where there are any: the result is the same. Throws a LowrankError that names the row for
 * malformed rows, for rows without any supervised token, for turns whose terminator would not be learnt, for tokens that the model has no
 * embedding for, and where no example is left.
 */
export async function prepareExamples(
  rows: RowFile | AsyncIterable<Row> | Iterable<Row>,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  options: PrepareOptions,
  { workers, signal }: { workers?: RowWorkers; signal?: AbortSignal } = {},
): Promise<PreparedData> {
  const { sequence_len: limit, name = 'the data set', invalid_rows_strategy = 'raise', atMost = Number.POSITIVE_INFINITY } = options;
  if (!Number.isInteger(limit) || limit < 2)
    throw new LowrankError(`is ${limit}`, { place: 'sequence_len', expected: 'a whole number of at least 2', mend: 'raise it' });
  const { prepare, atOnce } = workers ?? {
    atOnce: 1,
    prepare: (request: PrepareRequest) => prepareRows(request, tokenizer, template),
  };
  const examples: Example[] = [];
  const masked: string[] = [];
  const invalid = new InvalidRows(invalid_rows_strategy, name);
  const statistics = noStatistics();
  const take = async (part: Promise<PreparedRows>) => {
    const { inputIds, labels, ends, places, ...rest } = await part.catch((error) => {
      // Rows before the one that this is about may be wrong, too: the first is named.
      if (!signal?.aborted) invalid.finish(statistics.rows);
      throw error;
    });
    signal?.throwIfAborted();
    ends.forEach((end, i) => {
      const start = i === 0 ? 0 : ends[i - 1];
      examples.push({ sequences: [{ inputIds: inputIds.subarray(start, end), labels: labels.subarray(start, end) }], row: places[i] });
    });
    for (const place of rest.masked) masked.push(place);
    addStatistics(statistics, rest.statistics);
    invalid.add(rest.invalid, statistics.rows);
  };
  const underWay: Promise<PreparedRows>[] = [];
  for await (const { part } of requested(rows, options, prepare)) {
    // Awaited in its turn, so that the first row that is wrong is the one that is named.
    part.catch(() => undefined);
    underWay.push(part);
    if (underWay.length === atOnce) await take(underWay.shift()!);
    if (examples.length >= atMost) break;
  }
  for (const part of underWay) await take(part);
  invalid.finish(statistics.rows);
  statistics.invalid = invalid.count;
  statistics.invalid_example = invalid.first;
  refuseNothingToLearn(statistics, masked, limit, name);
  return { examples, statistics };
}

/** Asks for all rows in their order. Where reading them fails, what would have been the next part fails. */
async function* requested(
  rows: RowFile | AsyncIterable<Row> | Iterable<Row>,
  options: PrepareOptions,
  prepare: RowWorkers['prepare'],
): AsyncGenerator<{ part: Promise<PreparedRows> }> {
  const name = rows instanceof RowFile ? rows.name : '';
  let type: DatasetType | undefined;
  try {
    for await (const group of grouped(rows instanceof RowFile ? rows.texts() : rows, options.atMost === undefined ? rowsTogether : 1)) {
      type ??= detectType(asRow(group[0], name), options.dataset ?? {});
      yield { part: prepare({ rows: group, name, type, options }) };
    }
  } catch (error) {
    yield { part: Promise.reject(error) };
  }
}

async function* grouped(rows: AsyncIterable<Row | RowText> | Iterable<Row | RowText>, together: number): AsyncGenerator<(Row | RowText)[]> {
  let group: (Row | RowText)[] = [];
  let characters = 0;
  try {
    for await (const row of rows) {
      group.push(row);
      if ('text' in row) characters += row.text.length;
      if (group.length < together && characters < charactersTogether) continue;
      yield group;
      group = [];
      characters = 0;
    }
  } catch (error) {
    // The rows before come first.
    if (group.length > 0) yield group;
    throw error;
  }
  if (group.length > 0) yield group;
}

const asRow = (row: Row | RowText, name: string): Row => ('text' in row ? parseRow(row, name) : row);

const noStatistics = (): DataStatistics => ({
  rows: 0,
  examples: 0,
  tokens: 0,
  supervised: 0,
  dropped: 0,
  emptied: 0,
  invalid: 0,
  truncated: 0,
  unended: 0,
  longest: 0,
  histogram: [],
  read: [],
  findings: [],
});

/** Prepares some rows on the spot; `encode` (default: the tokenizer's own) encodes all their texts together. */
export async function prepareRows(
  { rows, name, type, options }: PrepareRequest,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  encode?: Encoder,
): Promise<PreparedRows> {
  const turn = eventLoopTurns();
  const checks = new Checks();
  const invalid: InvalidRow[] = [];
  const invalidAt: number[] = [];
  const drafts: (Draft & { place: string; at: number })[] = [];
  for (const [at, each] of rows.entries()) {
    await turn();
    const place = 'text' in each ? `${name}:${each.line}` : each.place;
    try {
      const row = asRow(each, name);
      const sample = readSample(row, type, options.dataset ?? {});
      checks.row(sample, row.value);
      drafts.push({ ...draftSample(sample, tokenizer, template, options, checks), place, at });
    } catch (error) {
      invalid.push(invalidRow(error, place));
      invalidAt.push(at);
    }
  }
  const encodings = await encode?.(drafts.map(({ text }) => text));
  const kept = new KeptExamples(type, options);
  for (const [i, { text, label, place, at }] of drafts.entries()) {
    await turn();
    const encoding = encodings?.[i] ?? encodeText(tokenizer, text);
    let labelled: Labelled;
    try {
      labelled = label(encoding);
      if (options.invalid_rows_strategy === 'drop' && countSupervised(labelled.labels) === 0)
        throw new LowrankError('the row has no supervised token', { place });
    } catch (error) {
      invalid.push(invalidRow(error, place));
      invalidAt.push(at);
      continue;
    }
    try {
      refuseRowless(labelled.inputIds, tokenizer, place);
      kept.add(labelled, place);
    } catch (error) {
      const before = invalid.filter((_, j) => invalidAt[j] < at);
      if (before.length === 0 || options.invalid_rows_strategy === 'drop') throw error;
      return kept.result(before, checks);
    }
  }
  return kept.result(invalid, checks);
}

/** The examples of some rows, those that are too long cut or left out. */
class KeptExamples {
  private readonly sequences: Labelled[] = [];
  private readonly places: string[] = [];
  private readonly masked: string[] = [];
  private readonly statistics: DataStatistics;
  private readonly options: PrepareOptions;

  constructor(type: DatasetType, options: PrepareOptions) {
    this.options = options;
    this.statistics = { ...noStatistics(), type };
  }

  add({ inputIds, labels }: Labelled, place: string): void {
    const { statistics } = this;
    const { sequence_len: limit, excess_length_strategy: strategy = 'drop' } = this.options;
    statistics.rows++;
    statistics.longest = Math.max(statistics.longest, inputIds.length);
    countLength(statistics, 2 ** Math.max(4, Math.ceil(Math.log2(inputIds.length))), 1);
    if (countSupervised(labels) === 0) this.masked.push(place);
    if (inputIds.length > limit && strategy === 'raise') {
      throw new LowrankError(`the example has ${inputIds.length} tokens, more than sequence_len ${limit}`, {
        place,
        mend: 'raise sequence_len, or set excess_length_strategy to drop or truncate',
      });
    }
    const sequence = { inputIds: inputIds.slice(0, limit), labels: labels.slice(0, limit) };
    const supervised = countSupervised(sequence.labels);
    if (inputIds.length > limit) {
      if (strategy === 'truncate' && supervised === 0) statistics.emptied++;
      if (strategy === 'drop' || supervised === 0) {
        statistics.dropped++;
        return;
      }
      statistics.truncated++;
      if (labels[limit - 1] !== -100 && labels[limit] !== -100) statistics.unended++;
    }
    this.sequences.push(sequence);
    this.places.push(place);
    statistics.examples++;
    statistics.tokens += sequence.inputIds.length;
    statistics.supervised += supervised;
  }

  result(invalid: InvalidRow[], checks: Checks): PreparedRows {
    const { sequences, places, masked } = this;
    const statistics = { ...this.statistics, read: [...checks.read], findings: checks.findings() };
    const [inputIds, labels] = [new Int32Array(statistics.tokens), new Int32Array(statistics.tokens)];
    let at = 0;
    const ends = sequences.map((sequence) => {
      inputIds.set(sequence.inputIds, at);
      labels.set(sequence.labels, at);
      at += sequence.inputIds.length;
      return at;
    });
    return { inputIds, labels, ends, places, masked, invalid, statistics };
  }
}

function refuseNothingToLearn({ rows, examples, emptied }: DataStatistics, masked: readonly string[], limit: number, place: string): void {
  if (rows === 0) throw new LowrankError('holds no rows', { place, mend: 'check its path and contents' });
  if (masked.length > 0) {
    const named = `${masked.slice(0, 5).join(', ')}${masked.length > 5 ? ', …' : ''}`;
    const have = masked.length === 1 ? 'has' : 'have';
    throw new LowrankError(`${masked.length} of ${counted(rows, 'row')} ${have} no supervised token: ${named}`, {
      place,
      expected: 'at least one turn of a trained role in each row',
      mend: 'remove these rows, or correct roles_to_train, roles or message_property_mappings',
    });
  }
  if (examples === 0) {
    const [one, all] =
      emptied === rows ? ['holds', 'hold'].map((hold) => `${hold} nothing supervised within`) : ['is longer than', 'are longer than'];
    throw new LowrankError(`${rows === 1 ? `the only row ${one}` : `all ${rows} rows ${all}`} sequence_len ${limit}`, {
      place,
      mend: 'raise sequence_len',
    });
  }
}

function addStatistics(to: DataStatistics, from: DataStatistics): void {
  const { histogram, type, longest, read, findings, invalid_example: _, ...counts } = from;
  for (const key of Object.keys(counts) as (keyof typeof counts)[]) to[key] += counts[key];
  to.longest = Math.max(to.longest, longest);
  to.type ??= type;
  to.read = [...new Set([...to.read, ...read])];
  to.findings = mergeFindings([to.findings, findings]);
  for (const { upTo, count } of histogram) countLength(to, upTo, count);
}

/** Counts rows of more than half of `upTo` and at most `upTo` tokens. */
function countLength({ histogram }: DataStatistics, upTo: number, rows: number): void {
  let bin = histogram.find((entry) => entry.upTo === upTo);
  if (!bin) {
    bin = { upTo, count: 0 };
    histogram.push(bin);
    histogram.sort((a, b) => a.upTo - b.upTo);
  }
  bin.count += rows;
}

/** Throws where the model has no embedding for a token: its tokenizer knows more tokens than the model was made for. */
function refuseRowless(ids: readonly number[], tokenizer: Tokenizer, place: string): void {
  const id = ids.find((each) => each >= tokenizer.embeddingRows);
  if (id === undefined) return;
  const token = JSON.stringify(tokenizer.idToToken(id) ?? '');
  throw new LowrankError(`the token ${token} has the id ${id}, and the model's embedding has ${tokenizer.embeddingRows} rows`, {
    place,
    expected: `ids from 0 to ${tokenizer.embeddingRows - 1}`,
    mend: 'remove the token from the data, or take the tokenizer that belongs to the model',
  });
}

/** Position 0 is predicted by nothing. */
function countSupervised(labels: readonly number[]): number {
  return labels.reduce((sum, label, t) => sum + (t > 0 && label !== -100 ? 1 : 0), 0);
}
