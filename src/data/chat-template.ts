import { LowrankError } from '../util/errors.js';
import type { JsonValue } from '../util/json.js';
import { bind } from './jinja/operations.js';
import { fromJson, str } from './jinja/print.js';
import { explain, Refusal, Template } from './jinja/template.js';
import { Dict, Func, type Value } from './jinja/values.js';
import { strftime } from './strftime.js';

/** One turn of a conversation, with the keys that chat templates read: `role`, `content`, `tool_calls`, `reasoning_content`, … */
export interface Message {
  role: string;
  [key: string]: JsonValue;
}

/** Characters [start, end) of a text, in UTF-16 units. */
export type Span = readonly [start: number, end: number];

export interface Rendering {
  text: string;
  /** What `{% generation %}` blocks enclose, in order; empty where the template has none. */
  generated: Span[];
  /** A generation block stood in a macro or a block that is not printed at once: what it encloses is not known. */
  misplaced: boolean;
  /** For each message the keys whose values the template read. */
  readKeys: ReadonlySet<string>[];
  /** Whether the template read the tools. */
  readTools: boolean;
}

export interface RenderOptions {
  /** Default false. */
  addGenerationPrompt?: boolean;
  tools?: JsonValue;
  /** The row, for errors. */
  place?: string;
}

export interface ChatTemplateOptions {
  /** The model's template named "tool_use", which holds where a conversation has tools. */
  toolUse?: string;
  /** `bos_token`, `eos_token`, …: what `Tokenizer.specialTokens` holds. */
  specialTokens?: Readonly<Record<string, string>>;
  /** The time that `strftime_now` shows; default: the time of rendering. */
  clock?: () => Date;
}

/** What another thread makes the same template of; its clock has stopped. */
export interface PortableTemplate {
  source: string;
  toolUse?: string;
  specialTokens: Readonly<Record<string, string>>;
  /** Milliseconds since 1970. */
  now: number;
}

/** The keys under which a message's reasoning may stand; templates read the first, older ones the second. */
export const reasoningKeys = ['reasoning_content', 'thinking', 'reasoning'] as const;

/**
 * A chat template in Jinja, rendered as `apply_chat_template` of transformers does, for training and for serving alike.
 * https://huggingface.co/docs/transformers/main/en/chat_templating_writing
 */
export class ChatTemplate {
  private readonly sources: Pick<PortableTemplate, 'source' | 'toolUse'>;
  private readonly plain: Template;
  private readonly toolUse: Template;
  private readonly specialTokens: Readonly<Record<string, string>>;
  private readonly clock: () => Date;

  /** Throws a LowrankError where the source is no template that can be read. */
  constructor(source: string, { toolUse, specialTokens = {}, clock = () => new Date() }: ChatTemplateOptions = {}) {
    this.sources = { source, toolUse };
    this.specialTokens = specialTokens;
    this.clock = clock;
    this.plain = parse(source, 'chat template');
    this.toolUse = toolUse === undefined ? this.plain : parse(toolUse, 'chat template tool_use');
  }

  /** A template out of what `portable` gave, with the clock stopped at its time. */
  static from({ source, now, ...options }: PortableTemplate): ChatTemplate {
    return new ChatTemplate(source, { ...options, clock: () => new Date(now) });
  }

  /** All that another thread needs to render alike. */
  portable(): PortableTemplate {
    return { ...this.sources, specialTokens: this.specialTokens, now: this.clock().getTime() };
  }

  /**
   * The text of a conversation, and what of it the template declares as generated. Keys whose value is null are left out, and reasoning
   * is given under all of its names, as transformers does. Throws a LowrankError naming `place` where the template refuses the messages or
   * fails.
   */
  render(messages: readonly Message[], { addGenerationPrompt = false, tools = null, place }: RenderOptions = {}): Rendering {
    try {
      const given = messages.map(messageValue);
      const { text, generated, misplaced, reads } = (tools === null ? this.plain : this.toolUse).render({
        ...this.specialTokens,
        raise_exception: new Func('raise_exception', (args) => {
          throw new Refusal(str(bind('raise_exception', ['message'], args)[0]));
        }),
        strftime_now: new Func('strftime_now', (args) => strftime(this.clock(), str(bind('strftime_now', ['format'], args)[0]))),
        messages: given,
        tools: fromJson(tools),
        documents: null,
        add_generation_prompt: addGenerationPrompt,
      });
      return { text, generated, misplaced, readKeys: given.map((dict, i) => readKeys(messages[i], dict)), readTools: reads.has('tools') };
    } catch (error) {
      const problem = error instanceof Refusal ? 'the chat template refuses the conversation' : 'the chat template fails';
      const mend = error instanceof Refusal ? 'change the messages to what the template allows' : 'correct the template or the messages';
      throw new LowrankError(`${problem}: ${explain(error)}`, { place, cause: error, mend });
    }
  }
}

function parse(source: string, place: string): Template {
  try {
    return new Template(source);
  } catch (error) {
    throw new LowrankError(`not a readable Jinja template: ${explain(error)}`, {
      place,
      cause: error,
      mend: 'correct it, or give another as chat_template_jinja',
    });
  }
}

/** A message as a template sees it, which notes what is read of it. */
function messageValue(message: Message): Dict {
  const reasoning = reasoningKeys.map((key) => message[key]).find((value) => value !== null && value !== undefined);
  const entries = Object.entries(message).filter(([, value]) => value !== null && value !== undefined);
  const pairs = entries.map(([key, value]): [string, Value] => [key, fromJson(value)]);
  if (reasoning !== undefined) {
    const value = fromJson(reasoning);
    pairs.unshift(['thinking', value]);
    pairs.push(['reasoning_content', value]);
  }
  const dict = Dict.of(pairs);
  dict.reads = new Set();
  return dict;
}

/** The keys of a message that a template read; reasoning is read under whichever of its names. */
function readKeys(message: Message, { reads = new Set() }: Dict): ReadonlySet<string> {
  if (reasoningKeys.some((key) => reads.has(key))) for (const key of reasoningKeys) if (key in message) reads.add(key);
  return reads;
}
