import { LowrankError } from '../util/errors.js';
import type { JsonValue } from '../util/json.js';
import { explainJinja, type Program, parseJinja, renderJinja } from './jinja.js';
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
}

export interface RenderOptions {
  /** Default false. */
  addGenerationPrompt?: boolean;
  tools?: JsonValue;
  /** The row, for errors. */
  place?: string;
}

export interface ChatTemplateOptions {
  /** `bos_token`, `eos_token`, …: what `Tokenizer.specialTokens` holds. */
  specialTokens?: Readonly<Record<string, string>>;
  /** The time that `strftime_now` shows; default: the time of rendering. */
  clock?: () => Date;
}

/** Noncharacters of Unicode, never part of exchanged text: they mark the ends of generated spans while a template renders. */
const marks = ['\ufdd0', '\ufdd1'] as const;

/** Raised by `raise_exception` in a template. */
class Refusal extends Error {}

/**
 * A chat template in Jinja, rendered as `apply_chat_template` of transformers does, for training and for serving alike.
 * https://huggingface.co/docs/transformers/main/en/chat_templating_writing
 */
export class ChatTemplate {
  private readonly program: Program;
  private readonly specialTokens: Readonly<Record<string, string>>;
  private readonly clock: () => Date;

  /** Throws a LowrankError where the source is no template that the engine reads. */
  constructor(source: string, { specialTokens = {}, clock = () => new Date() }: ChatTemplateOptions = {}) {
    this.specialTokens = specialTokens;
    this.clock = clock;
    try {
      this.program = parseJinja(markGenerations(source));
    } catch (error) {
      // The parser reads past its last token where a block or an expression is not closed.
      const reason = error instanceof TypeError ? 'a block or an expression is not closed' : explainJinja(error);
      throw new LowrankError(`not a readable Jinja template: ${reason}`, {
        place: 'chat template',
        cause: error,
        mend: 'correct it, or give another as chat_template_jinja',
      });
    }
  }

  /**
   * The text of a conversation, and what of it the template declares as generated. Keys whose value is null are left out, as
   * transformers does. Throws a LowrankError naming `place` where the template refuses the messages or fails.
   */
  render(messages: readonly Message[], { addGenerationPrompt = false, tools = null, place }: RenderOptions = {}): Rendering {
    const variables = {
      ...this.specialTokens,
      raise_exception: (message: unknown) => {
        throw new Refusal(String(message));
      },
      strftime_now: (format: unknown) => strftime(this.clock(), String(format)),
      messages: messages.map((message) => Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null))),
      tools,
      documents: null,
      add_generation_prompt: addGenerationPrompt,
    };
    if (/[\ufdd0\ufdd1]/.test(JSON.stringify([messages, tools]))) {
      throw new LowrankError('a message holds U+FDD0 or U+FDD1, which are not characters', { place, mend: 'remove them' });
    }
    try {
      return separateMarks(renderJinja(this.program, variables));
    } catch (error) {
      const problem = error instanceof Refusal ? 'the chat template refuses the conversation' : 'the chat template fails';
      const mend = error instanceof Refusal ? 'change the messages to what the template allows' : 'correct the template or the messages';
      throw new LowrankError(`${problem}: ${explainJinja(error)}`, { place, cause: error, mend });
    }
  }
}

/**
 * The engine drops `{% generation %}` and `{% endgeneration %}`. Each becomes a block that prints a mark; a block opens and ends it,
 * so that white space is controlled as around the tag itself.
 */
function markGenerations(source: string): string {
  return source.replace(/\{%(-?)\s{0,99}(end)?generation\s{0,99}(-?)%\}/g, (_, left, end, right) => {
    return `{%${left} if true %}{{ "${marks[end ? 1 : 0]}" }}{% endif ${right}%}`;
  });
}

function separateMarks(marked: string): Rendering {
  const generated: Span[] = [];
  let text = '';
  let start = -1;
  for (const part of marked.split(/([\ufdd0\ufdd1])/)) {
    const mark = marks.indexOf(part as (typeof marks)[number]);
    if (mark < 0) text += part;
    else if ((mark === 0) !== start < 0) throw new Error('its generation blocks are nested');
    else if (mark === 0) start = text.length;
    else {
      generated.push([start, text.length]);
      start = -1;
    }
  }
  if (start >= 0) throw new Error('a generation block does not end');
  return { text, generated };
}
