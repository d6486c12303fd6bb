import { LowrankError } from '../util/errors.js';
import { isObject, type JsonValue } from '../util/json.js';
import type { ChatTemplate, Message } from './chat-template.js';
import { parseArguments } from './formats/chat.js';

/** What a template makes of arguments that are a text: some print them as they are, others want an object and write its JSON themselves. */
const printsTexts = new WeakMap<ChatTemplate, boolean>();

/**
 * The messages with the arguments of their tool calls in the form that the template reads. Files in OpenAI's form hold them as JSON in a
 * text, which a template that writes `arguments | tojson` would quote a second time; for such a template they become objects. What stands
 * in a template that prints the text itself stays as it is written.
 */
export function readableToolCalls(template: ChatTemplate, messages: readonly Message[], tools?: JsonValue): readonly Message[] {
  if (!messages.some(({ tool_calls }) => Array.isArray(tool_calls))) return messages;
  const objects = messages.map(withObjects);
  const changed = objects.findIndex((message, i) => message !== messages[i]);
  if (changed < 0) return messages;
  let prints = printsTexts.get(template);
  if (prints === undefined) {
    prints = printsText(template, messages, callsOf(messages[changed]).map(argumentsOf).find(isJsonText) as string, tools);
    printsTexts.set(template, prints);
  }
  return prints ? messages : objects;
}

function printsText(template: ChatTemplate, messages: readonly Message[], text: string, tools?: JsonValue): boolean {
  try {
    const rendered = template.render(messages, { tools }).text;
    return rendered.includes(text) && !rendered.includes(JSON.stringify(text));
  } catch (error) {
    if (error instanceof LowrankError) return false;
    throw error;
  }
}

function withObjects(message: Message): Message {
  if (!callsOf(message).some((call) => isJsonText(argumentsOf(call)))) return message;
  const tool_calls = callsOf(message).map((call) => {
    const text = argumentsOf(call);
    const value = typeof text === 'string' ? parseArguments(text) : undefined;
    if (!isObject(call) || value === undefined) return call;
    return isObject(call.function) ? { ...call, function: { ...call.function, arguments: value } } : { ...call, arguments: value };
  });
  return { ...message, tool_calls };
}

const callsOf = ({ tool_calls }: Message): JsonValue[] => (Array.isArray(tool_calls) ? tool_calls : []);
const isJsonText = (value: JsonValue | undefined) => typeof value === 'string' && parseArguments(value) !== undefined;

/** The function that a tool call names, whether it stands in `function` or not. */
export function functionOf(call: JsonValue): { [key: string]: JsonValue } | undefined {
  if (!isObject(call)) return undefined;
  return isObject(call.function) ? call.function : call;
}

const argumentsOf = (call: JsonValue): JsonValue | undefined => functionOf(call)?.arguments;
