import { LowrankError } from '../util/errors.js';
import type { ChatTemplate, Message, RenderOptions, Span } from './chat-template.js';
import { functionOf } from './tool-calls.js';

/** Where a turn stands in the text of its conversation. */
export interface Turn {
  span: Span;
  /** The span reaches to the turn's end, past its terminator; otherwise it holds the content, and the terminator follows. */
  whole: boolean;
}

/**
 * Finds the turn `messages[index]` in `text`, the rendering of all messages, by rendering parts of the conversation.
 *
 * An assistant's turn is what follows the generation prompt, up to where the conversation that ends with it ends. Where the template
 * renders a turn differently when more turns follow, and for other roles, the text is found by exchanging the message for others and
 * seeing what changes. Throws where neither is exact.
 */
export function findTurn(template: ChatTemplate, text: string, messages: readonly Message[], index: number, options: RenderOptions): Turn {
  const { role } = messages[index];
  let found: { span?: Span } | undefined;
  const content = (): Span | undefined => (found ??= { span: findContent(template, text, messages, index, options) }).span;
  if (role === 'assistant') {
    const start = assistantStart(template, text, messages.slice(0, index), options, content);
    const upToEnd = index + 1 === messages.length ? text : attempt(() => template.render(messages.slice(0, index + 1), options).text);
    if (start !== undefined && upToEnd !== undefined && text.startsWith(upToEnd)) {
      const printed = text.slice(start, upToEnd.length).trim() !== '' || namesOfCalls(messages[index]).length === 0;
      if (!printed) throw notLocated(template, text, messages, index, options);
      return { span: [start, upToEnd.length], whole: true };
    }
    const end = content()?.[1] ?? (upToEnd === undefined ? undefined : sharedEnd(template, text, messages, index, upToEnd, options));
    if (start !== undefined && end !== undefined && start <= end) return { span: [start, end], whole: false };
  }
  const span = content();
  if (span) return { span, whole: false };
  throw notLocated(template, text, messages, index, options);
}

/** Why a turn is not located, as far as its texts and those of others tell. */
function notLocated(
  template: ChatTemplate,
  text: string,
  messages: readonly Message[],
  index: number,
  options: RenderOptions,
): LowrankError {
  const fail = (problem: string, mend: string) =>
    new LowrankError(`the chat template renders turn ${index + 1} (${messages[index].role}) ${problem}`, { place: options.place, mend });
  const placesOf = (words: readonly string[]) => words.map((word) => text.lastIndexOf(word)).filter((at) => at >= 0);
  const own = placesOf(textsOf(messages[index]));
  if (own.length === 0 && !isPrinted(template, text, messages, index, options))
    return fail('so that nothing of it is in the text', 'use a template that prints it, with its tool calls, or leave the row out');
  const cannot = 'so that its text cannot be located';
  const later = placesOf(messages.slice(index + 1).flatMap(textsOf));
  if (later.some((at) => at > Math.min(...own) && at < Math.max(...own))) {
    const mend = 'write what is said after a tool’s result as a message of its own, behind the result';
    return fail(`in parts, with what later messages say between them, ${cannot}`, mend);
  }
  const tags = 'put {% generation %} and {% endgeneration %} around the assistant’s text in the template';
  const before = attempt(() => template.render(messages.slice(0, index), options).text);
  if (before === undefined || text.startsWith(before)) return fail(cannot, tags);
  return fail(`${cannot}: what comes before it, such as tools, stands elsewhere when more turns follow`, `${tags}, or end the row with it`);
}

/** Whether the text depends on what a message says and calls, as where a template writes it in capitals. */
function isPrinted(template: ChatTemplate, text: string, messages: readonly Message[], index: number, options: RenderOptions): boolean {
  const { content, tool_calls: calls, ...others } = messages[index];
  const says = typeof content === 'string' && content !== '' ? 'something else' : content;
  const tool_calls = Array.isArray(calls) ? calls.map(() => ({ type: 'function', function: { name: 'other', arguments: {} } })) : calls;
  const changed = messages.with(index, { ...others, content: says, ...(tool_calls === undefined ? {} : { tool_calls }) } as Message);
  return attempt(() => template.render(changed, options).text) !== text;
}

/** The content of a message and the names of the functions that it calls. */
function textsOf(message: Message): string[] {
  const { content } = message;
  const texts = [typeof content === 'string' ? content.trim() : '', ...namesOfCalls(message)];
  return texts.filter((word) => word !== '');
}

function namesOfCalls({ tool_calls: calls }: Message): string[] {
  return (Array.isArray(calls) ? calls : []).flatMap((call) => {
    const name = functionOf(call)?.name;
    return typeof name === 'string' ? [name] : [];
  });
}

/** Where the assistant begins to write: after the generation prompt. A template without one may put a role's name before the text. */
function assistantStart(
  template: ChatTemplate,
  text: string,
  before: readonly Message[],
  options: RenderOptions,
  content: () => Span | undefined,
): number | undefined {
  if (before.length === 0) return content()?.[0];
  const [prompt, plain] = [true, false].map((addGenerationPrompt) =>
    attempt(() => template.render(before, { ...options, addGenerationPrompt }).text),
  );
  if (prompt !== undefined && text.startsWith(prompt)) {
    if (prompt !== plain) return prompt.length;
    const start = content()?.[0];
    return start === undefined || text.slice(prompt.length, start).trim() === '' ? prompt.length : start;
  }
  if (prompt === undefined || plain === undefined || !text.startsWith(plain)) return content()?.[0];
  // The prompt goes on otherwise than the turn, such as with an empty thought: the turn begins behind the last whole word that both have.
  let shared = commonLength(prompt, text);
  while (shared > plain.length && !/[\s>\]]/.test(text[shared - 1])) shared--;
  return shared > plain.length ? shared : content()?.[0];
}

/**
 * Where a turn ends that the template does not close but continues with what follows, such as the result of a tool: there the whole
 * text and the conversation that ends with the turn part, and nothing but the turn's close may be left of the latter.
 */
function sharedEnd(
  template: ChatTemplate,
  text: string,
  messages: readonly Message[],
  index: number,
  upToEnd: string,
  options: RenderOptions,
): number | undefined {
  const shared = commonLength(text, upToEnd);
  return closingText(template, messages, index, options)?.endsWith(upToEnd.slice(shared)) ? shared : undefined;
}

function commonLength(a: string, b: string): number {
  const shorter = Math.min(a.length, b.length);
  let length = 0;
  while (length < shorter && a[length] === b[length]) length++;
  return length;
}

/**
 * What the template writes behind the content of a turn of this message's role when nothing follows, such as "<|im_end|>\n"; undefined
 * where that cannot be seen.
 */
export function closingText(
  template: ChatTemplate,
  messages: readonly Message[],
  index: number,
  options: RenderOptions,
): string | undefined {
  const around = surroundings(template, messages.slice(0, index + 1), index, {}, options);
  return around?.after;
}

/**
 * The characters of `text` that come from one message, or undefined where exchanging it changes more than that: all that the template
 * writes of it, tool calls and reasoning too, or else its content.
 */
function findContent(
  template: ChatTemplate,
  text: string,
  messages: readonly Message[],
  index: number,
  options: RenderOptions,
): Span | undefined {
  const others = Object.keys(messages[index]).some((key) => key !== 'role' && key !== 'content');
  for (const rest of others ? [{}, messages[index]] : [{}]) {
    const around = surroundings(template, messages, index, rest, options);
    if (!around) continue;
    const { before, after } = around;
    const end = text.length - after.length;
    if (before.length > end || !text.startsWith(before) || !text.endsWith(after)) continue;
    return isOwn(template, text, messages, index, end, options) ? [before.length, end] : undefined;
  }
  return findCalls(template, text, messages, index, options);
}

/** The calls of a turn, in `text`, without any content: what stands there instead of a content, whichever that is. */
function findCalls(
  template: ChatTemplate,
  text: string,
  messages: readonly Message[],
  index: number,
  options: RenderOptions,
): Span | undefined {
  const [name] = namesOfCalls(messages[index]);
  const around = name === undefined ? undefined : surroundings(template, messages, index, {}, options);
  if (name === undefined || !around) return undefined;
  const { before, after } = around;
  const start = commonLength(text, before);
  const longest = Math.min(after.length, text.length - start);
  let same = 0;
  while (same < longest && text.at(-1 - same) === after.at(-1 - same)) same++;
  const end = text.length - same;
  const found = text.slice(start, end).includes(name) && isOwn(template, text, messages, index, end, options);
  return found ? [start, end] : undefined;
}

/**
 * Whether the text up to the end of a turn says nothing of what later messages hold: a template may put a tool's result into the turn
 * that called it.
 */
function isOwn(
  template: ChatTemplate,
  text: string,
  messages: readonly Message[],
  index: number,
  end: number,
  options: RenderOptions,
): boolean {
  const others = messages.map((message, i) =>
    i > index && typeof message.content === 'string' ? { ...message, content: 'other' } : message,
  );
  const changed = index + 1 === messages.length ? text : attempt(() => template.render(others, options).text);
  return changed === undefined || changed.startsWith(text.slice(0, end));
}

/** The text before and after the content of `messages[index]`, whose other keys are `rest`, found by exchanging the content. */
function surroundings(
  template: ChatTemplate,
  messages: readonly Message[],
  index: number,
  rest: Partial<Message>,
  options: RenderOptions,
): { before: string; after: string } | undefined {
  // Two words that begin and end differently.
  const [one, other] = ['first', 'second'].map((content) =>
    attempt(() => template.render(messages.with(index, { ...rest, role: messages[index].role, content }), options).text),
  );
  if (one === undefined || other === undefined || one === other) return undefined;
  const shorter = Math.min(one.length, other.length);
  const before = commonLength(one, other);
  let after = 0;
  while (after < shorter - before && one.at(-1 - after) === other.at(-1 - after)) after++;
  return { before: one.slice(0, before), after: one.slice(one.length - after) };
}

/** A template may refuse parts of a conversation that it accepts as a whole. */
function attempt(render: () => string): string | undefined {
  try {
    return render();
  } catch (error) {
    if (error instanceof LowrankError) return undefined;
    throw error;
  }
}
