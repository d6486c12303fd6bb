import { LowrankError } from '../util/errors.js';
import { isObject, type JsonValue } from '../util/json.js';
import { isTrained, type SupervisionOptions } from './chat.js';
import { type ChatTemplate, type Message, type Rendering, reasoningKeys } from './chat-template.js';
import { parseArguments } from './formats/chat.js';
import type { Sample } from './formats/index.js';
import { saysNothing } from './formats/reader.js';
import type { Tokenizer } from './tokenizer.js';
import { functionOf } from './tool-calls.js';

/** Content of rows that does not reach the training as it stands, counted. */
export interface Finding {
  /**
   * column: a column that nothing reads. key: a message's key that the template does not read. text: text of messages that is not in the
   * rendering. tools: tools that the template does not show. prompt: the generation prompt is not how the trained text begins an answer.
   * header: there is no generation prompt, and what begins an answer is not trained either.
   * arguments: arguments of tool calls that are no JSON. surrogate: halves of characters. character: those that the vocabulary cannot
   * write. empty: trained answers without text.
   */
  kind: 'column' | 'key' | 'text' | 'tools' | 'prompt' | 'header' | 'arguments' | 'surrogate' | 'character' | 'empty';
  /** The column, or of which messages which key; what the sentence about it needs. */
  subject: string;
  count: number;
  /** The first row, `file:line`, and what stands there. */
  place: string;
  example: string;
}

type Conversation = Sample & { kind: 'conversation' };

/**
 * Looks at every row for content that is lost on its way into what is trained; what a template reads it says itself, what it prints is
 * looked for.
 */
export class Checks {
  private readonly found = new Map<string, Finding>();
  /** The columns that were read. */
  readonly read = new Set<string>();
  private prompts = 0;

  /** What does not depend on a template: columns that are not read, empty completions, halves of characters. */
  row(sample: Sample, values: Readonly<Record<string, JsonValue>>): void {
    for (const key of sample.read) this.read.add(key);
    for (const key of sample.unread) this.add('column', key, sample.place, excerpt(values[key]));
    if (sample.kind !== 'text') return;
    if (sample.completion.trim() === '') this.add('empty', 'completion', sample.place, '');
    this.surrogates(sample.prompt + sample.completion, sample.place);
  }

  /**
   * A conversation and its rendering. Throws a LowrankError that names the row where the template leaves out all text that is to be
   * trained.
   */
  conversation(template: ChatTemplate, sample: Conversation, rendering: Rendering, options: SupervisionOptions): void {
    const { messages, tools, place } = sample;
    const rendered = new Rendered(rendering.text);
    this.surrogates(rendering.text, place);
    messages.forEach((message, i) => {
      const at = `${place}: message ${i + 1}`;
      // The names of a message's thinking stand for one value.
      const thinking = reasoningKeys.find((key) => !saysNothing(message[key]));
      for (const key of Object.keys(message))
        if (key === thinking || !reasoningKeys.includes(key as never) || !sameValue(message[key], message[thinking ?? key]))
          this.messageKey(message, key, rendering.readKeys[i], rendered, at);
      this.toolArguments(message, at);
      const trained = isTrained(sample, i, options.roles_to_train);
      if (trained && contentKeys.every((key) => blank(message[key]))) this.add('empty', 'turn', at, '');
    });
    const names = (Array.isArray(tools) ? tools : []).flatMap((tool) => functionOf(tool)?.name ?? []);
    const shown = rendering.readTools && names.every((name) => typeof name !== 'string' || rendered.holds(name));
    if (!saysNothing(tools) && !shown) this.add('tools', '', place, excerpt(names.length > 0 ? names : (tools ?? null)));
    refuseNothingRendered(template, sample, rendered, options);
    this.generationPrompt(template, sample, rendering.text, options);
  }

  /** What of a text its tokens do not hold. */
  tokens(tokenizer: Tokenizer, text: string, ids: readonly number[], place: string): void {
    const [lost] = tokenizer.lost(text, ids);
    if (lost === undefined) return;
    const at = text.indexOf(lost);
    this.add('character', '', place, `${excerpt(lost)} in ${excerpt(text.slice(Math.max(0, at - 20), at + 20))}`);
  }

  findings(): Finding[] {
    return [...this.found.values()];
  }

  private add(kind: Finding['kind'], subject: string, place: string, example: string): void {
    const key = `${kind} ${subject}`;
    const known = this.found.get(key);
    if (known) known.count++;
    else this.found.set(key, { kind, subject, count: 1, place, example });
  }

  private surrogates(text: string, place: string): void {
    const at = text.search(/\p{Surrogate}/u);
    if (at >= 0) this.add('surrogate', '', place, excerpt(text.slice(Math.max(0, at - 20), at + 20)));
  }

  private messageKey(message: Message, key: string, read: ReadonlySet<string>, rendered: Rendered, place: string): void {
    const { role, [key]: value } = message;
    if (key === 'role' || saysNothing(value)) return;
    const texts = textsOf(key, value);
    const missing = texts.filter((text) => !rendered.holds(text));
    // A short text stands somewhere by chance.
    if (missing.length === 0 && (read.has(key) || texts.some((text) => text.length > 3))) return;
    if (!read.has(key)) this.add('key', `${role} ${key}`, place, excerpt(value));
    else if (missing.length > 0) this.add('text', `${role} ${key}`, place, excerpt(rendered.lostOf(missing[0])));
  }

  private toolArguments(message: Message, place: string): void {
    for (const call of Array.isArray(message.tool_calls) ? message.tool_calls : []) {
      const { arguments: text = null } = functionOf(call) ?? {};
      if (typeof text === 'string' && parseArguments(text) === undefined) this.add('arguments', '', place, excerpt(text));
    }
  }

  /**
   * The prompt that answers are asked with must be how the training text begins them. Looked at for the first rows, then ever more
   * rarely.
   */
  private generationPrompt(template: ChatTemplate, sample: Conversation, text: string, options: SupervisionOptions): void {
    const { messages, tools, place } = sample;
    const last = messages.findLastIndex(({ role }, i) => role === 'assistant' && isTrained(sample, i, options.roles_to_train));
    if (last < 0 || (++this.prompts > 64 && !isPowerOfTwo(this.prompts))) return;
    const prompt = render(template, messages.slice(0, last), tools, true);
    if (prompt === undefined) return;
    if (text.startsWith(prompt)) {
      const { role, content, ...others } = messages[last];
      const plain = typeof content === 'string' && Object.values(others).every(saysNothing) && !options.train_on_inputs;
      const header = plain ? text.slice(prompt.length, text.indexOf(content.trim(), prompt.length)) : '';
      if (header.trim() === '' || render(template, messages.slice(0, last), tools) !== prompt) return;
      this.add('header', '', `${place}: message ${last + 1}`, excerpt(header));
      return;
    }
    let same = 0;
    while (text[same] === prompt[same]) same++;
    const from = Math.max(0, same - 20);
    const [wanted, trained] = [prompt, text].map((whole) => excerpt(whole.slice(from, same + 30)));
    this.add('prompt', '', `${place}: message ${last + 1}`, `answers are asked for with ${wanted}, and the training has ${trained} there`);
  }
}

/** The texts of a message that are trained. */
const contentKeys = ['content', 'tool_calls', ...reasoningKeys] as const;

function refuseNothingRendered(template: ChatTemplate, sample: Conversation, rendered: Rendered, options: SupervisionOptions): void {
  const { messages, place } = sample;
  const trained = messages.flatMap((_, i) => (isTrained(sample, i, options.roles_to_train) ? [i] : []));
  const texts = trained.flatMap((i) => contentKeys.flatMap((key) => textsOf(key, messages[i][key] ?? null)));
  if (texts.length === 0 || texts.some((text) => rendered.holds(text))) return;
  if (changes(template, sample, trained, rendered.text)) return;
  throw new LowrankError('the chat template leaves out all that this row trains', {
    place,
    expected: `the text ${excerpt(texts[0])} in what it renders`,
    mend: 'use a template that prints the content of trained messages, or put the text under a key that it reads',
  });
}

/** Whether the rendering changes with the content of these messages, as where a template writes it otherwise. */
function changes(template: ChatTemplate, { messages, tools }: Conversation, indices: readonly number[], text: string): boolean {
  const changed = messages.map((message, i) => {
    if (!indices.includes(i)) return message;
    const others = Object.entries(message).filter(([key]) => !contentKeys.includes(key as never));
    return { ...Object.fromEntries(others), role: message.role, content: 'something else' };
  });
  return render(template, changed, tools) !== text;
}

/** A rendering, or undefined where the template refuses. */
function render(template: ChatTemplate, messages: readonly Message[], tools: JsonValue | undefined, addGenerationPrompt = false) {
  try {
    return template.render(messages, { tools, addGenerationPrompt }).text;
  } catch (error) {
    if (error instanceof LowrankError) return undefined;
    throw error;
  }
}

/** A rendered text in which others are looked for. */
class Rendered {
  readonly text: string;
  private cursor = 0;
  private dense?: string;

  constructor(text: string) {
    this.text = text;
  }

  /** Whether a text stands in the rendering, white space apart, or written as JSON writes it. */
  holds(text: string): boolean {
    // Contents stand in the order of the messages.
    const at = this.text.indexOf(text, this.cursor);
    if (at >= 0) this.cursor = at + text.length;
    if (at >= 0 || this.text.includes(text) || this.text.includes(JSON.stringify(text).slice(1, -1))) return true;
    this.dense ??= withoutSpace(this.text);
    return this.dense.includes(withoutSpace(text));
  }

  /** Of a text that does not stand here, the part that is missing: what is left without its longest beginning and end that do. */
  lostOf(text: string): string {
    const longest = (part: (length: number) => string) => {
      let [found, most] = [0, text.length];
      while (found < most) {
        const middle = Math.ceil((found + most) / 2);
        if (this.text.includes(part(middle))) found = middle;
        else most = middle - 1;
      }
      return found;
    };
    const end = longest((n) => text.slice(text.length - n));
    const start = longest((n) => text.slice(0, n));
    return text.slice(start < 8 ? 0 : start, Math.max(start < 8 ? 1 : start + 1, text.length - end));
  }
}

const withoutSpace = (text: string) => text.replace(/\s+/g, '');
const sameValue = (a: JsonValue, b: JsonValue) => JSON.stringify(a) === JSON.stringify(b);
const isPowerOfTwo = (n: number) => (n & (n - 1)) === 0;
const blank = (value: JsonValue | undefined) => saysNothing(value) || (typeof value === 'string' && value.trim() === '');

/** The texts in a value that a template should show; of tool calls the names and arguments. */
function textsOf(key: string, value: JsonValue): string[] {
  if (typeof value === 'string') return value.trim() === '' ? [] : [value.trim()];
  if (key === 'tool_calls' && Array.isArray(value)) {
    return value.flatMap((call) => {
      const { name = null, arguments: given = null } = functionOf(call) ?? {};
      return [...textsOf('', name), ...textsOf('', typeof given === 'string' ? (parseArguments(given) ?? given) : given)];
    });
  }
  if (Array.isArray(value)) return value.flatMap((item) => textsOf('', item));
  return isObject(value) ? Object.values(value).flatMap((item) => textsOf('', item)) : [];
}

function excerpt(value: JsonValue): string {
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

/** The findings of the parts of a data set, in their order, as those of the whole. */
export function mergeFindings(parts: readonly (readonly Finding[])[]): Finding[] {
  const all = new Map<string, Finding>();
  for (const finding of parts.flat()) {
    const key = `${finding.kind} ${finding.subject}`;
    const known = all.get(key);
    all.set(key, known ? { ...known, count: known.count + finding.count } : finding);
  }
  return [...all.values()];
}
