import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';
import { LowrankError, messageOf } from '../util/errors.js';
import type { JsonValue } from '../util/json.js';
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

/** Bounds on templates, which come from outside and are programs. */
const limits = { source: 1 << 18, whitespaceRun: 4096, steps: 2e7, seconds: 20, range: 1e5, list: 1e6, text: 1 << 26 } as const;

/** What is used of the engine, whose own declarations TypeScript cannot resolve under `NodeNext`. */
interface Value {
  value: unknown;
}
type EnvironmentLike = { set(name: string, value: unknown): void };
const Engine = Interpreter as unknown as new (
  environment: EnvironmentLike,
) => { run(program: unknown): Value; evaluate(statement: unknown, environment: EnvironmentLike): Value };

/** Raised by `raise_exception` in a template. */
class Refusal extends Error {}

/** Evaluates a template within `limits`. */
class BoundedInterpreter extends Engine {
  private steps = 0;
  private readonly deadline = performance.now() + limits.seconds * 1000;

  override evaluate(statement: unknown, environment: EnvironmentLike): Value {
    this.steps++;
    const late = this.steps % 256 === 0 && performance.now() > this.deadline;
    if (late || this.steps > limits.steps) throw new Error('it does not come to an end');
    const result = super.evaluate(statement, environment);
    const { value } = result;
    if (typeof value === 'string' && value.length > limits.text) throw new Error(`its text grows beyond ${limits.text} characters`);
    if (Array.isArray(value) && value.length > limits.list) throw new Error(`a list grows beyond ${limits.list} items`);
    return result;
  }
}

/**
 * A chat template in Jinja, rendered as `apply_chat_template` of transformers does, for training and for serving alike.
 * https://huggingface.co/docs/transformers/main/en/chat_templating_writing
 */
export class ChatTemplate {
  private readonly program: unknown;
  private readonly specialTokens: Readonly<Record<string, string>>;
  private readonly clock: () => Date;

  /** Throws a LowrankError where the source is no template that the engine reads. */
  constructor(source: string, { specialTokens = {}, clock = () => new Date() }: ChatTemplateOptions = {}) {
    this.specialTokens = specialTokens;
    this.clock = clock;
    const fail = (problem: string, cause?: unknown) =>
      new LowrankError(problem, { place: 'chat template', cause, mend: 'correct it, or give another as chat_template_jinja' });
    if (source.length > limits.source) throw fail(`it has ${source.length} characters, more than ${limits.source}`);
    // The engine's scanner is quadratic in runs of white space.
    if (new RegExp(`\\s{${limits.whitespaceRun}}`).test(source)) throw fail(`more than ${limits.whitespaceRun} spaces in a row`);
    try {
      this.program = parse(tokenize(markGenerations(source), { lstrip_blocks: true, trim_blocks: true }));
    } catch (error) {
      throw fail(`not a readable Jinja template: ${explain(error)}`, error);
    }
  }

  /**
   * The text of a conversation, and what of it the template declares as generated. Keys whose value is null are left out, as
   * transformers does. Throws a LowrankError naming `place` where the template refuses the messages or fails.
   */
  render(messages: readonly Message[], { addGenerationPrompt = false, tools = null, place }: RenderOptions = {}): Rendering {
    const environment: EnvironmentLike = new Environment();
    const variables = {
      ...this.specialTokens,
      ...{ true: true, false: false, none: null, True: true, False: false, None: null },
      raise_exception: (message: unknown) => {
        throw new Refusal(String(message));
      },
      range: boundedRange,
      strftime_now: (format: unknown) => strftime(this.clock(), String(format)),
      messages: messages.map((message) => Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null))),
      tools,
      documents: null,
      add_generation_prompt: addGenerationPrompt,
    };
    try {
      for (const [name, value] of Object.entries(variables)) environment.set(name, value);
      return separateMarks(String(new BoundedInterpreter(environment).run(this.program).value));
    } catch (error) {
      const problem = error instanceof Refusal ? 'the chat template refuses the conversation' : 'the chat template fails';
      const mend = error instanceof Refusal ? 'change the messages to what the template allows' : 'correct the template or the messages';
      throw new LowrankError(`${problem}: ${explain(error)}`, { place, cause: error, mend });
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
    else if ((mark === 0) !== start < 0) throw new Error('its generation blocks are nested, or a message holds U+FDD0 or U+FDD1');
    else if (mark === 0) start = text.length;
    else {
      generated.push([start, text.length]);
      start = -1;
    }
  }
  if (start >= 0) throw new Error('a generation block does not end');
  return { text, generated };
}

/** Python's `range`, at most `limits.range` long. */
function boundedRange(...bounds: unknown[]): number[] {
  if (bounds.length < 1 || bounds.length > 3 || !bounds.every(Number.isInteger)) throw new Error('range() takes one to three integers');
  const [first, second, step = 1] = bounds as number[];
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (step === 0 || length > limits.range) throw new Error(`range(${bounds}) is empty of meaning or longer than ${limits.range}`);
  return Array.from({ length }, (_, i) => start + i * step);
}

/** A message of the engine, which may hold text of the template's, kept short. */
function explain(error: unknown): string {
  const message = error instanceof RangeError ? 'it nests or recurses too deeply' : messageOf(error);
  return message.length > 300 ? `${message.slice(0, 300)}…` : message;
}
