import { LowrankError, nearest } from '../util/errors.js';
import { isObject, type JsonObject, type JsonValue } from '../util/json.js';
import type { SupervisionOptions } from './chat.js';
import type { Message } from './chat-template.js';
import type { Row } from './rows.js';

export const datasetTypes = ['chat_template', 'alpaca', 'completion', 'tokenized'] as const;
export type DatasetType = (typeof datasetTypes)[number];

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
export type Sample =
  | { kind: 'conversation'; messages: Message[]; tools?: JsonValue; place: string }
  | { kind: 'text'; prompt: string; completion: string; place: string }
  | { kind: 'tokens'; inputIds: readonly JsonValue[]; labels: readonly JsonValue[]; place: string };

const defaultRoles: Record<string, readonly string[]> = { user: ['human'], assistant: ['gpt'] };

/** The keys by which a format is recognised. */
const formats: { type: DatasetType; keys: readonly string[] }[] = [
  { type: 'chat_template', keys: ['messages'] },
  { type: 'chat_template', keys: ['conversations'] },
  { type: 'tokenized', keys: ['input_ids', 'labels'] },
  { type: 'alpaca', keys: ['instruction', 'output'] },
  { type: 'completion', keys: ['text'] },
];

/** The format of a row that none of the options names. Throws where its keys are those of no format. */
export function detectType(row: Row, options: DatasetOptions): DatasetType {
  if (options.type) return options.type;
  const keys = Object.keys(row.value);
  if (options.field_messages !== undefined) return 'chat_template';
  const match = formats.find((format) => format.keys.every((key) => keys.includes(key)));
  if (match) return match.type;
  const known = formats.flatMap((format) => format.keys);
  const suggestions = keys.flatMap((key) => {
    const near = known.includes(key) ? undefined : nearest(key, known);
    return near ? [`rename ${key} to ${near}`] : [];
  });
  throw new LowrankError(`no format has the keys ${keys.slice(0, 10).map(quoted).join(', ') || '(none)'}`, {
    place: row.place,
    expected: formats.map((format) => format.keys.join(' + ')).join('; or '),
    mend: suggestions.join(', ') || 'rename the keys, or name them with type, field_messages or field',
  });
}

/** Reads one row of a known format. Throws a LowrankError that names the row and what it lacks. */
export function readSample(row: Row, type: DatasetType, options: DatasetOptions): Sample {
  const { value, place } = row;
  switch (type) {
    case 'chat_template':
      return readConversation(row, options);
    case 'alpaca':
      return {
        kind: 'text',
        prompt: alpacaPrompt(text(row, 'instruction'), value.input === undefined || value.input === null ? '' : text(row, 'input')),
        completion: text(row, 'output'),
        place,
      };
    case 'completion':
      return { kind: 'text', prompt: '', completion: text(row, options.field ?? 'text'), place };
    case 'tokenized':
      return { kind: 'tokens', inputIds: list(row, 'input_ids'), labels: list(row, 'labels'), place };
  }
}

/**
 * The prompt of the Alpaca data set, in the wording that Axolotl's `alpaca` trains with.
 * https://github.com/axolotl-ai-cloud/axolotl/blob/main/src/axolotl/prompters.py
 */
export function alpacaPrompt(instruction: string, input: string): string {
  const task = 'Below is an instruction that describes a task';
  const context = input ? ', paired with an input that provides further context' : '';
  const head = `${task}${context}. Write a response that appropriately completes the request.\n\n### Instruction:\n${instruction}\n\n`;
  return `${head}${input ? `### Input:\n${input}\n\n` : ''}### Response:\n`;
}

function readConversation(row: Row, options: DatasetOptions): Sample {
  const { value, place } = row;
  const field =
    options.field_messages ?? (value.messages === undefined && value.conversations !== undefined ? 'conversations' : 'messages');
  const turns = list(row, field);
  const shareGpt = turns.every((turn) => isObject(turn) && turn.role === undefined && turn.from !== undefined);
  const { role = shareGpt ? 'from' : 'role', content = shareGpt ? 'value' : 'content' } = options.message_property_mappings ?? {};
  const aliases = new Map(
    Object.entries(options.roles ?? defaultRoles).flatMap(([name, others]) => others.map((other) => [other, name] as const)),
  );
  let messages = turns.map((turn, i) => readMessage(turn, `${place}: ${field}[${i}]`, role, content, aliases));
  if (options.drop_system_message && messages[0]?.role === 'system') messages = messages.slice(1);
  if (messages.length === 0) throw new LowrankError('the conversation is empty', { place, mend: 'remove the row' });
  const tools = value[options.field_tools ?? 'tools'];
  return { kind: 'conversation', messages, tools, place };
}

function readMessage(turn: JsonValue, place: string, roleKey: string, contentKey: string, aliases: ReadonlyMap<string, string>): Message {
  if (!isObject(turn))
    throw new LowrankError(`a message is ${kindOf(turn)}`, {
      place,
      expected: `an object with ${roleKey} and ${contentKey}`,
      mend: 'correct the row',
    });
  const { [roleKey]: role, [contentKey]: content, ...others } = turn;
  const missing = (key: string) => {
    const near = nearest(key, Object.keys(others));
    const mend = near ? `rename ${near} to ${key}, or map it with message_property_mappings` : `add ${key} to the message`;
    return new LowrankError(`a message has no ${quoted(key)}`, { place, mend });
  };
  if (role === undefined) throw missing(roleKey);
  if (typeof role !== 'string' || role === '') {
    throw new LowrankError(`a message's ${quoted(roleKey)} is ${kindOf(role)}`, {
      place,
      expected: 'a text such as user or assistant',
      mend: 'correct the row',
    });
  }
  if ((content === undefined || content === null) && turn.tool_calls === undefined) throw missing(contentKey);
  return { ...others, role: aliases.get(role) ?? role, content: content === undefined ? null : flatText(content, place) };
}

/** Content in parts ({type: text, text}), of text only, becomes one text. */
function flatText(content: JsonValue, place: string): JsonValue {
  if (content === null || typeof content === 'string') return content;
  const parts = Array.isArray(content)
    ? content.map((part) => (isObject(part) && part.type === 'text' ? part.text : undefined))
    : [undefined];
  if (parts.every((part) => typeof part === 'string')) return parts.join('');
  throw new LowrankError(`a message's content is ${kindOf(content)}`, {
    place,
    expected: 'a text, or a list of {"type": "text", "text": …}',
    mend: 'correct the row',
  });
}

function text({ value, place }: Row, key: string): string {
  const entry = field(value, key, place);
  if (typeof entry === 'string') return entry;
  throw new LowrankError(`${quoted(key)} is ${kindOf(entry)}`, { place, expected: 'a text', mend: 'correct the row' });
}

function list({ value, place }: Row, key: string): JsonValue[] {
  const entry = field(value, key, place);
  if (Array.isArray(entry)) return entry;
  throw new LowrankError(`${quoted(key)} is ${kindOf(entry)}`, { place, expected: 'a list', mend: 'correct the row' });
}

function field(value: JsonObject, key: string, place: string): JsonValue {
  if (Object.hasOwn(value, key)) return value[key];
  const near = nearest(key, Object.keys(value));
  throw new LowrankError(`the row has no ${quoted(key)}`, { place, mend: near ? `rename ${near} to ${key}` : `add ${key} to the row` });
}

function kindOf(value: JsonValue): string {
  if (value === null) return 'null';
  if (value === '') return 'an empty text';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value === 'string' ? 'text' : typeof value}`;
}

const quoted = (key: string) => JSON.stringify(key.length > 40 ? `${key.slice(0, 40)}…` : key);
