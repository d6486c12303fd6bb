import { LowrankError } from '../util/errors.js';
import { eventLoopTurns } from '../util/event-loop.js';
import { counted } from '../util/format.js';
import type { JsonValue } from '../util/json.js';
import { tokenRanges } from './align.js';
import { type Labelled, labelConversation, refuseDoubleBos } from './chat.js';
import type { ChatTemplate } from './chat-template.js';
import { type DatasetOptions, type DatasetType, detectType, readSample, type Sample } from './formats.js';
import type { Row } from './rows.js';
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
  dataset?: DatasetOptions;
  /** What errors about all rows name: the file. */
  name?: string;
}

export interface DataStatistics {
  rows: number;
  examples: number;
  tokens: number;
  supervised: number;
  /** Rows left out: longer than sequence_len, or cut so that nothing supervised was left. */
  dropped: number;
  truncated: number;
  /** Of all rows before dropping and truncating, in tokens. */
  longest: number;
  /** Rows by length: those of more than half of `upTo` and at most `upTo` tokens. */
  histogram: { upTo: number; count: number }[];
  type?: DatasetType;
}

export interface PreparedData {
  examples: Example[];
  statistics: DataStatistics;
}

/**
 * Turns rows into examples. Throws a LowrankError that names the row for malformed rows, for rows without any supervised token, for
 * turns whose terminator would not be learnt, and where no example is left.
 */
export async function prepareExamples(
  rows: AsyncIterable<Row> | Iterable<Row>,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  options: PrepareOptions,
): Promise<PreparedData> {
  const { sequence_len: limit, excess_length_strategy: strategy = 'drop', dataset = {}, name = 'the data set' } = options;
  if (!Number.isInteger(limit) || limit < 2)
    throw new LowrankError(`is ${limit}`, { place: 'sequence_len', expected: 'a whole number of at least 2', mend: 'raise it' });
  const statistics: DataStatistics = {
    rows: 0,
    examples: 0,
    tokens: 0,
    supervised: 0,
    dropped: 0,
    truncated: 0,
    longest: 0,
    histogram: [],
  };
  const examples: Example[] = [];
  const masked: string[] = [];
  const turn = eventLoopTurns();
  for await (const row of rows) {
    await turn();
    statistics.type ??= detectType(row, dataset);
    const { inputIds, labels } = label(readSample(row, statistics.type, dataset), tokenizer, template, dataset);
    count(statistics, inputIds.length);
    if (countSupervised(labels) === 0) masked.push(row.place);
    if (inputIds.length > limit && strategy === 'raise') {
      throw new LowrankError(`the example has ${inputIds.length} tokens, more than sequence_len ${limit}`, {
        place: row.place,
        mend: 'raise sequence_len, or set excess_length_strategy to drop or truncate',
      });
    }
    const supervised = countSupervised(labels.slice(0, limit));
    if (inputIds.length > limit && (strategy === 'drop' || supervised === 0)) {
      statistics.dropped++;
      continue;
    }
    if (inputIds.length > limit) statistics.truncated++;
    const sequence = { inputIds: Int32Array.from(inputIds.slice(0, limit)), labels: Int32Array.from(labels.slice(0, limit)) };
    examples.push({ sequences: [sequence], row: row.place });
    statistics.tokens += sequence.inputIds.length;
    statistics.supervised += supervised;
  }
  statistics.examples = examples.length;
  refuseNothingToLearn(statistics, masked, limit, name);
  return { examples, statistics };
}

/** The tokens of a sample and their labels, as they are trained. */
export function label(sample: Sample, tokenizer: Tokenizer, template: ChatTemplate | undefined, options: DatasetOptions): Labelled {
  switch (sample.kind) {
    case 'conversation':
      if (template) return labelConversation(tokenizer, template, sample, options);
      throw new LowrankError('the base model has no chat template, and the data set holds conversations', {
        place: sample.place,
        mend: 'give a template as chat_template_jinja, or take an instruction-tuned base model',
      });
    case 'text':
      return labelText(sample, tokenizer, options);
    case 'tokens':
      return labelTokens(sample, tokenizer);
  }
}

/** A prompt that is not learnt and a completion that is, with the tokenizer's bos before them and the end-of-text token after. */
function labelText({ prompt, completion, place }: Sample & { kind: 'text' }, tokenizer: Tokenizer, options: DatasetOptions): Labelled {
  const { eosTokenId: eos, prefixIds } = tokenizer;
  if (eos === undefined)
    throw new LowrankError('the tokenizer has no eos_token, so the model would not learn to stop', {
      place,
      mend: 'use a base model whose tokenizer_config.json names one, or data with messages',
    });
  const text = prompt + completion;
  const ids = tokenizer.encode(text);
  const inputIds = [...prefixIds, ...ids, eos];
  refuseDoubleBos(tokenizer, inputIds, place);
  const labels = [...inputIds];
  if (prompt !== '' && !options.train_on_inputs) {
    const [[first]] = tokenRanges(tokenizer, ids, text, [[prompt.length, text.length]]);
    labels.fill(-100, 0, prefixIds.length + first);
  }
  // Nothing precedes the first token, so nothing predicts it.
  labels[0] = -100;
  if (options.train_on_eos === 'none') labels[labels.length - 1] = -100;
  return { inputIds, labels };
}

/** Token ids and labels made elsewhere: checked, and refused where a supervised run stops just before its end-of-text token. */
function labelTokens({ inputIds, labels, place }: Sample & { kind: 'tokens' }, tokenizer: Tokenizer): Labelled {
  if (inputIds.length !== labels.length || inputIds.length === 0) {
    throw new LowrankError(`input_ids has ${inputIds.length} entries and labels ${labels.length}`, {
      place,
      expected: 'equal lengths, at least 1',
      mend: 'correct the row',
    });
  }
  const isId = (id: JsonValue): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < tokenizer.vocabSize;
  inputIds.forEach((id, t) => {
    const expected = `a whole number from 0 to ${tokenizer.vocabSize - 1}`;
    if (!isId(id)) throw new LowrankError(`input_ids[${t}] is ${JSON.stringify(id)}`, { place, expected, mend: 'correct the row' });
    if (labels[t] !== -100 && labels[t] !== id) {
      const mend = 'write the label of a token at the token’s own position; the loss shifts them';
      throw new LowrankError(`labels[${t}] is ${JSON.stringify(labels[t])} and input_ids[${t}] is ${id}`, {
        place,
        expected: 'the same, or −100',
        mend,
      });
    }
    if (t > 0 && id === tokenizer.eosTokenId && labels[t] === -100 && labels[t - 1] !== -100) {
      throw new LowrankError(`the eos token at position ${t} is masked, so the model would not learn to stop`, {
        place,
        mend: 'set its label',
      });
    }
  });
  return { inputIds: inputIds as number[], labels: labels as number[] };
}

function refuseNothingToLearn({ rows, examples }: DataStatistics, masked: readonly string[], limit: number, place: string): void {
  if (rows === 0) throw new LowrankError('holds no rows', { place, mend: 'check its path and contents' });
  if (masked.length > 0) {
    const named = masked.slice(0, 5).join(', ');
    throw new LowrankError(
      `${masked.length} of ${counted(rows, 'row')} ${masked.length === 1 ? 'has' : 'have'} no supervised token: ${named}${masked.length > 5 ? ', …' : ''}`,
      {
        place,
        expected: 'at least one turn of a trained role in each row',
        mend: 'remove these rows, or correct roles_to_train, roles or message_property_mappings',
      },
    );
  }
  if (examples === 0) {
    throw new LowrankError(`${rows === 1 ? 'the only row is' : `all ${rows} rows are`} longer than sequence_len ${limit}`, {
      place,
      mend: 'raise sequence_len',
    });
  }
}

function count(statistics: DataStatistics, length: number): void {
  statistics.rows++;
  statistics.longest = Math.max(statistics.longest, length);
  const upTo = 2 ** Math.max(4, Math.ceil(Math.log2(length)));
  let bin = statistics.histogram.find((entry) => entry.upTo === upTo);
  if (!bin) {
    bin = { upTo, count: 0 };
    statistics.histogram.push(bin);
    statistics.histogram.sort((a, b) => a.upTo - b.upTo);
  }
  bin.count++;
}

/** Position 0 is predicted by nothing. */
function countSupervised(labels: readonly number[]): number {
  return labels.reduce((sum, label, t) => sum + (t > 0 && label !== -100 ? 1 : 0), 0);
}
