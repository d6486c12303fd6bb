import { messageOf } from '../../util/errors.js';
import { compileStatements } from './compile.js';
import { limits, startMeter } from './meter.js';
import { globals } from './objects.js';
import { parseTemplate } from './parser.js';
import { Frame, Output, type Rendition, Scope } from './scope.js';
import type { Value } from './values.js';

/**
 * Jinja as Python renders it in transformers' environment: values print, compare and compute as Python's do, and a template reaches its
 * variables and nothing else. Templates come from outside and are programs; what they may use is bounded in `meter.ts`.
 *
 * What Python would render and this refuses, by name:
 * 1. `block`, `extends`, `include`, `import`, `from`: a chat template has no other templates.
 * 2. `{% autoescape true %}`: escapes for web pages.
 * 3. `+`, `%`, methods and `format` on a text that `safe` or `escape` made: Python escapes what is joined to it.
 * 4. Printing iterators and functions: Python writes where they lie in memory.
 * 5. `random` and `lipsum`: their results are random.
 * 6. `pprint`, `wordwrap`, `urlize`: they break lines and find links by rules of libraries of their own.
 * 7. Values of types that chats do not have: bytes (`encode`), complex numbers, sets (operations on views of dicts), and
 *    numbers above 4300 digits.
 * 8. Methods of texts, numbers and iterators that only make such values (`translate`, `hex`, `send` …), and `format_map`.
 * 9. The escape `\N{…}` in texts, the format codes `n` and `c`, and zeros before groups of digits.
 * 10. Generation blocks inside of each other.
 */
export class Template {
  private readonly run: (frame: Frame) => unknown;

  /** Throws an Error that says what is wrong and at which line of the template. */
  constructor(source: string) {
    if (source.length > limits.source) throw new Error(`it has ${source.length} characters, more than ${limits.source}`);
    this.run = compileStatements(parseTemplate(source));
  }

  /** Throws what the template or a bound throws, naming the template's line. Positions count UTF-16 units. */
  render(variables: Readonly<Record<string, Value>>): TemplateResult {
    startMeter();
    const reads = new Set<string>();
    const given = new Scope(undefined, reads);
    for (const [name, value] of [...globals(), ...Object.entries(variables)]) given.set(name, value);
    const main = new Output();
    const rendition: Rendition = { main, generated: [], misplaced: false, generating: false, line: 1 };
    try {
      this.run(new Frame(new Scope(given), main, rendition));
    } catch (error) {
      if (error instanceof Refusal) throw error;
      throw new Error(`${explain(error)} (line ${rendition.line})`, { cause: error });
    }
    return { text: main.text, generated: rendition.generated, misplaced: rendition.misplaced, reads };
  }
}

export interface TemplateResult {
  text: string;
  /** What generation blocks enclose, [start, end) each, in order. */
  generated: [number, number][];
  /** A generation block stood in a macro or in a block whose text is not printed at once, so that its place is not known. */
  misplaced: boolean;
  /** The variables that were read. */
  reads: ReadonlySet<string>;
}

/** What `raise_exception` in a template throws. */
export class Refusal extends Error {}

/** An error's message, which may hold text of the template's, kept short. */
export function explain(error: unknown): string {
  const message = error instanceof RangeError ? 'it nests, recurses or grows too far' : messageOf(error);
  return message.length > 300 ? `${message.slice(0, 300)}…` : message;
}
