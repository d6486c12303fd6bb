import { LowrankError, nearest } from '../../util/errors.js';
import { isObject, type JsonValue } from '../../util/json.js';
import type { SupervisionOptions } from '../chat.js';
import type { Message } from '../chat-template.js';
import type { Row } from '../rows.js';
import { alpaca } from './alpaca.js';
import { chat } from './chat.js';
import { completion, promptCompletion, tokenized } from './plain.js';
import { quoted, RowReader } from './reader.js';

export { alpacaPrompt } from './alpaca.js';

/** The formats by the names that `type` takes, in the order in which they are tried: a new one is a file here and a line. */
const formats = { chat_template: chat, tokenized, alpaca, prompt_completion: promptCompletion, completion };

export type DatasetType = keyof typeof formats;
export const datasetTypes = Object.keys(formats) as [DatasetType, ...DatasetType[]];

/** How a data set is read; the names are Axolotl's. */
export interface DatasetOptions extends SupervisionOptions {
  /** Default: recognised by the keys of the first row. */
  type?: DatasetType;
  /** The key of a completion's text; default: text. */
  field?: string;
  /** The key of a conversation; default: messages, or conversations (ShareGPT). */
  field_messages?: string;
  /** The key of the tools that a conversation may use; default: tools. */
  field_tools?: string;
  /** What a message's `role` and `content` are called; default: their own names, or ShareGPT's `from` and `value`. */
  message_property_mappings?: { role?: string; content?: string };
  /** Role → names that stand for it; default: human for user, gpt for assistant. */
  roles?: Record<string, readonly string[]>;
  drop_system_message?: boolean;
}

/** What a row says, its format apart. */
type Content =
  /** `train`: of each message whether it is trained, where the row itself says so. */
  | { kind: 'conversation'; messages: readonly Message[]; train: readonly (boolean | undefined)[]; tools?: JsonValue }
  | { kind: 'text'; prompt: string; completion: string }
  | { kind: 'tokens'; inputIds: readonly JsonValue[]; labels: readonly JsonValue[] };

/** The same with its place, and the columns of the row: those that were read, and those that were not though they say something. */
export type Sample = Content & { place: string; read: readonly string[]; unread: readonly string[] };

/** A way to write rows. */
export interface Format {
  /** The keys by which it is recognised: all those of one list. */
  keys: readonly (readonly string[])[];
  /** Throws a LowrankError that names the row and what it lacks. */
  read(row: RowReader, options: DatasetOptions): Content;
}

/** The format of a row that none of the options names. Throws where its keys are those of no format. */
export function detectType(row: Row, options: DatasetOptions): DatasetType {
  if (options.type) return options.type;
  if (options.field_messages !== undefined) return 'chat_template';
  const keys = Object.keys(row.value);
  if (Array.isArray(row.value.prompt) && Array.isArray(row.value.completion)) return 'chat_template';
  const type = datasetTypes.find((name) => formats[name].keys.some((needed) => needed.every((key) => keys.includes(key))));
  if (type) return type;
  throw new LowrankError(`no format has the keys ${keys.slice(0, 10).map(quoted).join(', ') || '(none)'}`, {
    place: row.place,
    expected: knownKeys.map((needed) => needed.join(' + ')).join('; or '),
    mend:
      conversationIn(row) ??
      renaming(row) ??
      'write rows as {"prompt": …, "completion": …} or {"messages": […]}, or name a conversation’s key as field_messages',
  });
}

const knownKeys = datasetTypes.flatMap((name) => formats[name].keys);

const turnKeys = [
  ['role', 'content'],
  ['from', 'value'],
];
const isTurn = (value: JsonValue | undefined) => isObject(value) && turnKeys.some((keys) => keys.every((key) => Object.hasOwn(value, key)));

/** How a row is read that is a turn itself, or holds a conversation in a column of another name. */
function conversationIn({ value }: Row): string | undefined {
  if (isTurn(value)) return 'write each conversation as a row: {"messages": [{"role": …, "content": …}, …]}';
  const key = Object.keys(value).find((each) => Array.isArray(value[each]) && isTurn(value[each][0]));
  return key === undefined ? undefined : `name the column of the conversation: field_messages: ${key}, in the entry of datasets`;
}

/** How a row's keys become those of a format: by misspelling, or because a row of two texts is a prompt and its completion. */
function renaming({ value }: Row): string | undefined {
  const keys = Object.keys(value);
  const texts = keys.filter((key) => typeof value[key] === 'string');
  // One short word is soon like another, so that of two texts none is taken for a misspelt "text".
  for (const needed of knownKeys.filter((needed) => needed[0] !== 'text' || texts.length !== 2)) {
    const others = keys.filter((key) => !needed.includes(key));
    const renamed = needed.filter((key) => !keys.includes(key)).map((key) => [nearest(key, others), key] as const);
    const sources = new Set(renamed.map(([from]) => from));
    if (!sources.has(undefined) && sources.size === renamed.length)
      return renamed.map(([from, to]) => `rename ${from} to ${to}`).join(', ');
  }
  const [first, second] = texts;
  if (texts.length === 2) return `rename ${first} to prompt and ${second} to completion, if the second is what is to be learnt`;
  return texts.length === 1 ? `rename ${first} to text, or write type: completion and field: ${first}` : undefined;
}

/** Reads one row of a known format. Throws a LowrankError that names the row and what it lacks. */
export function readSample(row: Row, type: DatasetType, options: DatasetOptions): Sample {
  const reader = new RowReader(row);
  const content = formats[type].read(reader, options);
  return { ...content, place: row.place, ...reader.columns() };
}
