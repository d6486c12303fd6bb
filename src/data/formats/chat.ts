import { LowrankError, messageOf, nearest } from '../../util/errors.js';
import { isObject, JsonNumber, type JsonObject, type JsonValue, parseExactJson } from '../../util/json.js';
import type { Message } from '../chat-template.js';
import type { DatasetOptions, Format } from './index.js';
import { kindOf, listOf, quoted, type RowReader, saysNothing } from './reader.js';

/** Messages, and of each whether it is trained, where the row itself says so. */
export interface Messages {
  messages: Message[];
  train: (boolean | undefined)[];
}

const defaultRoles: Record<string, readonly string[]> = { user: ['human'], assistant: ['gpt'] };

/** LLaMA-Factory's names in ShareGPT's rows besides. https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md */
const shareGptRoles = { ...defaultRoles, assistant: ['gpt', 'function_call'], tool: ['observation'] };

/** Whether all turns are ShareGPT's, with `from` and `value`. */
const isShareGpt = (turns: readonly JsonValue[]) =>
  turns.every((turn) => isObject(turn) && turn.role === undefined && turn.from !== undefined);

/**
 * Conversations: `messages` with role and content, ShareGPT's `conversations` with from and value, or TRL's `prompt` and `completion`,
 * both lists of messages, of which the completion's are trained. A `system` column leads them.
 */
export const chat: Format = {
  keys: [['messages'], ['conversations']],
  read(row, options) {
    const field = options.field_messages ?? (!row.has('messages') && row.has('conversations') ? 'conversations' : 'messages');
    let { messages, train } = !row.has(field) && row.has('completion') ? readPair(row, options) : readMessages(row, field, options);
    if (row.has('system') && messages[0]?.role !== 'system') {
      messages = [{ role: 'system', content: row.text('system') }, ...messages];
      train = [undefined, ...train];
    }
    if (options.drop_system_message && messages[0]?.role === 'system') [messages, train] = [messages.slice(1), train.slice(1)];
    if (messages.length === 0) throw new LowrankError('the conversation is empty', { place: row.place, mend: 'remove the row' });
    const tools = readTools(row, options.field_tools ?? 'tools');
    const bare = Array.isArray(tools) && row.has(field) && isShareGpt(row.list(field));
    return { kind: 'conversation', messages, train, tools: bare ? tools.map(asTool) : tools };
  },
};

function readPair(row: RowReader, options: DatasetOptions): Messages {
  const [prompt, completion] = ['prompt', 'completion'].map((field) => readMessages(row, field, options));
  const untrained = prompt.messages.map(() => false);
  return { messages: [...prompt.messages, ...completion.messages], train: [...untrained, ...completion.train] };
}

/** The messages of one column, in the form that chat templates read. */
export function readMessages(row: RowReader, field: string, options: DatasetOptions): Messages {
  const turns = row.list(field);
  const shareGpt = isShareGpt(turns);
  const { role = shareGpt ? 'from' : 'role', content = shareGpt ? 'value' : 'content' } = options.message_property_mappings ?? {};
  const aliases = new Map(
    Object.entries(options.roles ?? (shareGpt ? shareGptRoles : defaultRoles)).flatMap(([name, others]) =>
      others.map((other) => [other, name] as const),
    ),
  );
  const { message_field_training: flag } = options;
  const train: Messages['train'] = [];
  const messages = turns.map((turn, i) => {
    const place = `${row.place}: ${field}[${i}]`;
    const read = readMessage(turn, place, role, content, aliases);
    const calls = shareGpt && !options.roles && (turn as JsonObject).from === 'function_call';
    const message = calls ? readCalls(read, place) : read;
    if (flag === undefined) return message;
    const { [flag]: value, ...others } = message;
    train[i] = trainingFlag(value, flag, place);
    return others as Message;
  });
  train.length = messages.length;
  return { messages, train: [...train] };
}

/** A turn of the role function_call: its text is a call, {name, arguments} in JSON, or a list of calls. */
function readCalls({ content, ...message }: Message, place: string): Message {
  let value: JsonValue = null;
  try {
    if (typeof content === 'string') value = parseExactJson(content, 'function_call');
  } catch {
    // Said below.
  }
  const tool_calls = [value].flat().map((call) => {
    if (isObject(call) && typeof call.name === 'string' && call.arguments !== undefined) return { type: 'function', function: call };
    throw new LowrankError(`a function_call is ${JSON.stringify(content ?? null).slice(0, 60)}`, {
      place,
      expected: 'JSON as text: {"name": …, "arguments": {…}}, or a list of such calls',
      mend: 'correct the row; to train it as the text that it is, set roles: {user: [human], assistant: [gpt, function_call]}',
    });
  });
  return { ...message, content: null, tool_calls };
}

/** A tool as templates and OpenAI's API have it; LLaMA-Factory's rows hold the function alone, and it wraps them so, too. */
function asTool(tool: JsonValue): JsonValue {
  const bare = isObject(tool) && typeof tool.name === 'string' && tool.function === undefined;
  return bare ? { type: 'function', function: tool } : tool;
}

/** OpenAI's, Mistral's and Together's files write 0 and 1. */
function trainingFlag(value: JsonValue | undefined, key: string, place: string): boolean | undefined {
  if (value === undefined || value === null) return undefined;
  // Tables with gaps write 1.0.
  const flag = value instanceof JsonNumber ? Number(value) : value;
  if (flag === true || flag === 1) return true;
  if (flag === false || flag === 0) return false;
  throw new LowrankError(`a message's ${quoted(key)} is ${JSON.stringify(value).slice(0, 40)}`, {
    place,
    expected: 'true, false, 1, 0 or null',
    mend: 'correct the row, or name another key as message_field_training',
  });
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
  if ((content === undefined || content === null) && turn.tool_calls === undefined)
    throw turn.function_call === undefined ? missing(contentKey) : legacyCall(place);
  const message: Message = { ...others, role: aliases.get(role) ?? role, content: content === undefined ? null : flatText(content, place) };
  if (typeof message.tool_calls === 'string') message.tool_calls = callsOf(message.tool_calls, place);
  return message;
}

/** Tool calls as JSON in a text, as tables hold them. */
function callsOf(text: string, place: string): JsonValue {
  const calls = text.trim() === '' ? [] : listOf(text);
  if (calls) return calls;
  throw new LowrankError(`a message's tool_calls are the text ${quoted(text)}`, {
    place,
    expected: 'a list of calls, or one as JSON in a text',
    mend: 'correct the row',
  });
}

const legacyCall = (place: string) =>
  new LowrankError('a message has a function_call, OpenAI’s earlier form, which templates do not read', {
    place,
    mend: 'write it as tool_calls: [{"type": "function", "function": {"name": …, "arguments": …}}], and its result with the role tool',
  });

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

/** The tools of a row: a list, or JSON as text, whole or each tool for itself, as tables can hold them. */
function readTools(row: RowReader, key: string): JsonValue | undefined {
  const tools = row.optional(key);
  if (saysNothing(tools)) return undefined;
  const parse = (text: string) => {
    try {
      return parseExactJson(text, key);
    } catch (error) {
      throw row.fail(`${quoted(key)} is a text that is not JSON: ${messageOf(error).split('\n')[0]}`, 'a list of tools');
    }
  };
  const list = typeof tools === 'string' ? parse(tools) : tools;
  if (!Array.isArray(list) && !isObject(list)) throw row.fail(`${quoted(key)} is ${kindOf(list ?? null)}`, 'a list of tools');
  // Templates go through a list: of an object they would take the keys for tools.
  const read = [list].flat().map((tool) => (typeof tool === 'string' ? parse(tool) : tool));
  return read.length === 0 ? undefined : read;
}

/** The object that a tool call's arguments stand for where they are JSON in a text, as in OpenAI's files; undefined where they are not. */
export function parseArguments(text: string): JsonObject | undefined {
  try {
    const value = parseExactJson(text, 'arguments');
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
