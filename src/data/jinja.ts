import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';
import { messageOf } from '../util/errors.js';

/**
 * Jinja for templates from outside, which are programs: sizes, steps and time are bounded. The engine is `@huggingface/jinja`, with
 * Python's `strip` added where the engine differs without saying so.
 */

/** A template ready to render. */
export type Program = { readonly type: 'Program' };

const limits = { source: 1 << 18, whitespaceRun: 4096, steps: 5e5, seconds: 10, range: 1e5, list: 1e6, text: 1 << 26 } as const;

/** What is used of the engine, whose own declarations TypeScript cannot resolve under `NodeNext`. */
interface Node {
  readonly type: string;
}
interface ForNode extends Node {
  readonly iterable: Node & { readonly lhs?: Node };
}
interface CallNode extends Node {
  readonly callee: Node & { readonly object?: Node; readonly property?: Node & { readonly value?: unknown }; readonly computed?: boolean };
  readonly args: readonly Node[];
}
interface Value {
  readonly value: unknown;
}
interface Variables {
  set(name: string, value: unknown): void;
}
const Engine = Interpreter as unknown as new (
  variables: Variables,
) => { run(program: Program): Value; evaluate(node: Node | undefined, variables: Variables): Value };

class BoundedInterpreter extends Engine {
  private steps = 0;
  private nextLook = 0;
  private readonly iterables = new Set<Node>();
  private readonly deadline = performance.now() + limits.seconds * 1000;

  override evaluate(node: Node | undefined, variables: Variables): Value {
    if (node?.type === 'For') this.iterables.add(iterableOf(node as ForNode));
    const result = (node?.type === 'CallExpression' && this.strip(node as CallNode, variables)) || super.evaluate(node, variables);
    const { value } = result;
    // Each turn of a loop is a step, however little is in it.
    this.steps += node && this.iterables.has(node) && Array.isArray(value) ? value.length : 1;
    if (this.steps > this.nextLook) {
      this.nextLook = this.steps + 256;
      if (this.steps > limits.steps || performance.now() > this.deadline) throw new Error('it does not come to an end');
    }
    if (typeof value === 'string' && value.length > limits.text) throw new Error(`its text grows beyond ${limits.text} characters`);
    if (Array.isArray(value) && value.length > limits.list) throw new Error(`a list grows beyond ${limits.list} items`);
    return result;
  }

  /** `text.strip(characters)`, `lstrip`, `rstrip`: the engine ignores the argument. Undefined for other calls. */
  private strip({ callee, args }: CallNode, variables: Variables): Value | undefined {
    const method = callee.property?.value;
    const side = callee.type !== 'MemberExpression' || callee.computed ? -1 : ['strip', 'lstrip', 'rstrip'].indexOf(String(method));
    if (side < 0 || args.length !== 1) return undefined;
    const text = this.evaluate(callee.object, variables);
    const characters = this.evaluate(args[0], variables).value;
    if (typeof text.value !== 'string' || typeof characters !== 'string') return undefined;
    const set = new Set(characters);
    const units = [...text.value];
    let start = 0;
    let end = units.length;
    while (side !== 2 && start < end && set.has(units[start])) start++;
    while (side !== 1 && end > start && set.has(units[end - 1])) end--;
    const StringValue = text.constructor as new (value: string) => Value;
    return new StringValue(units.slice(start, end).join(''));
  }
}

/** `for x in list if test` has the list inside of a select expression. */
function iterableOf({ iterable }: ForNode): Node {
  return iterable.type === 'SelectExpression' && iterable.lhs ? iterable.lhs : iterable;
}

/** Parses a template, white space controlled as transformers does. Throws an Error that says what is wrong. */
export function parseJinja(source: string): Program {
  if (source.length > limits.source) throw new Error(`it has ${source.length} characters, more than ${limits.source}`);
  // The engine's scanner is quadratic in runs of white space.
  if (new RegExp(`\\s{${limits.whitespaceRun}}`).test(source)) throw new Error(`it has more than ${limits.whitespaceRun} spaces in a row`);
  return parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true })) as Program;
}

/** Renders a template with its variables and Python's constants and `range`. Throws what the template or a bound throws. */
export function renderJinja(program: Program, variables: Record<string, unknown>): string {
  const environment: Variables = new Environment();
  const constants = { true: true, false: false, none: null, True: true, False: false, None: null, range: boundedRange };
  for (const [name, value] of Object.entries({ ...constants, ...variables })) environment.set(name, value);
  return String(new BoundedInterpreter(environment).run(program).value);
}

/** An error's message, which may hold text of the template's, kept short. */
export function explainJinja(error: unknown): string {
  const message = error instanceof RangeError ? 'it nests, recurses or grows too far' : messageOf(error);
  return message.length > 300 ? `${message.slice(0, 300)}…` : message;
}

/** Python's `range`, of bounded length. */
function boundedRange(...bounds: unknown[]): number[] {
  if (bounds.length < 1 || bounds.length > 3 || !bounds.every(Number.isInteger)) throw new Error('range() takes one to three integers');
  const [first, second, step = 1] = bounds as number[];
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (step === 0 || length > limits.range) throw new Error(`range(${bounds}) is longer than ${limits.range}, or never ends`);
  return Array.from({ length }, (_, i) => start + i * step);
}
