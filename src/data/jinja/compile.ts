import { callFilter, callTest } from './filters.js';
import { made, madeList, spend, spendItems, spendText } from './meter.js';
import type { CallArguments, Expression, FilterNode, MacroNode, Statement, Target } from './nodes.js';
import { Loop, Namespace } from './objects.js';
import { binary, call, contains, getAttribute, getItem, iterate, listOf, unary } from './operations.js';
import { str } from './print.js';
import {
  type Arguments,
  asText,
  Dict,
  equal,
  Iter,
  ordered,
  orElse,
  PyObject,
  Slice,
  Tuple,
  truthy,
  typeName,
  Undefined,
  type Value,
} from './values.js';

/**
 * Syntax to functions, once per template. Names are looked up when they are read, from the inside outwards, which is what Jinja's own
 * compiler amounts to: loops, macros and the bodies of blocks have a scope of their own, and `if` has none.
 */

/** Names and their values. */
export class Scope {
  private readonly names = new Map<string, Value>();
  /** `reads`: gathers which of the names were read. */
  readonly outer?: Scope;
  private readonly reads?: Set<string>;

  constructor(outer?: Scope, reads?: Set<string>) {
    this.outer = outer;
    this.reads = reads;
  }
  set(name: string, value: Value): void {
    this.names.set(name, value);
  }
  get(name: string): Value | undefined {
    for (let scope: Scope | undefined = this; scope; scope = scope.outer) {
      const value = scope.names.get(name);
      if (value === undefined) continue;
      scope.reads?.add(name);
      return value;
    }
    return undefined;
  }
}

/** Text that is written. */
export class Output {
  text = '';
  write(text: string): void {
    spendText(text.length);
    this.text += text;
  }
}

/** What the statements of a rendering share. */
export interface Rendition {
  /** Where the rendering's own text goes. */
  main: Output;
  /** What generation blocks enclose in it. */
  generated: [number, number][];
  /** A generation block stood where its place in the text is not known: in a macro or in a block whose text is not printed at once. */
  misplaced: boolean;
  generating: boolean;
  /** The line that is evaluated. */
  line: number;
}

/** Where a statement stands. */
export class Frame {
  readonly scope: Scope;
  readonly output: Output;
  readonly rendition: Rendition;

  constructor(scope: Scope, output: Output, rendition: Rendition) {
    this.scope = scope;
    this.output = output;
    this.rendition = rendition;
  }
  inner(output = this.output): Frame {
    return new Frame(new Scope(this.scope), output, this.rendition);
  }
}

type Evaluate = (frame: Frame) => Value;
/** Runs a statement; tells how it leaves the loop around it, if it does. */
type Run = (frame: Frame) => 'break' | 'continue' | undefined;

// Statements

export function compileStatements(statements: readonly Statement[]): Run {
  const runs = statements.map(compileStatement);
  return (frame) => {
    for (const run of runs) {
      const leaves = run(frame);
      if (leaves) return leaves;
    }
    return undefined;
  };
}

const runs = (act: (frame: Frame) => void): Run => {
  return (frame) => {
    act(frame);
    return undefined;
  };
};

function compileStatement(node: Statement): Run {
  switch (node.kind) {
    case 'text':
      return runs((frame) => frame.output.write(node.text));
    case 'print': {
      const value = compile(node.value);
      return runs((frame) => frame.output.write(str(value(frame))));
    }
    case 'set': {
      const value = compile(node.value);
      const assign = compileTarget(node.target);
      return runs((frame) => assign(frame, value(frame)));
    }
    case 'set block':
      return setBlock(node);
    case 'for':
      return loop(node);
    case 'if':
      return condition(node);
    case 'with':
      return withBlock(node);
    case 'macro': {
      const macro = compileMacro(node.macro);
      return runs((frame) => frame.scope.set(node.name, macro(frame)));
    }
    case 'call block':
      return callBlock(node);
    case 'filter block': {
      const body = compileStatements(node.body);
      const filter = compileFilter(node.filter);
      return (frame) => {
        const inner = frame.inner(new Output());
        const leaves = body(inner);
        if (!leaves) frame.output.write(str(filter(inner, inner.output.text)));
        return leaves;
      };
    }
    case 'generation':
      return generation(node);
    case 'break':
    case 'continue':
      return () => node.kind;
  }
}

function compileTarget(target: Target): (frame: Frame, value: Value) => void {
  switch (target.kind) {
    case 'name':
      return (frame, value) => frame.scope.set(target.name, value);
    case 'attribute':
      return (frame, value) => {
        const object = frame.scope.get(target.object);
        if (!(object instanceof Namespace)) throw new Error('cannot assign attribute on non-namespace object');
        object.set(target.name, value);
      };
    case 'tuple': {
      const items = target.items.map(compileTarget);
      return (frame, value) => {
        const values = listOf(value);
        if (values.length > items.length) throw new Error(`too many values to unpack (expected ${items.length})`);
        if (values.length < items.length) throw new Error(`not enough values to unpack (expected ${items.length}, got ${values.length})`);
        for (const [i, assign] of items.entries()) assign(frame, values[i]);
      };
    }
  }
}

function setBlock(node: Statement & { kind: 'set block' }): Run {
  const body = compileStatements(node.body);
  const filter = node.filter && compileFilter(node.filter);
  const assign = compileTarget(node.target);
  return (frame) => {
    const inner = frame.inner(new Output());
    const leaves = body(inner);
    if (leaves) return leaves;
    const { text } = inner.output;
    assign(frame, filter ? filter(inner, text) : text);
    return undefined;
  };
}

function condition({ branches, otherwise }: Statement & { kind: 'if' }): Run {
  const compiled = branches.map(([test, body]) => [compile(test), compileStatements(body)] as const);
  const last = compileStatements(otherwise);
  return (frame) => {
    for (const [test, body] of compiled) if (truthy(test(frame))) return body(frame);
    return last(frame);
  };
}

function withBlock(node: Statement & { kind: 'with' }): Run {
  const values = node.values.map(compile);
  const targets = node.targets.map(compileTarget);
  const body = compileStatements(node.body);
  return (frame) => {
    const inner = frame.inner();
    for (const [i, assign] of targets.entries()) assign(inner, values[i](frame));
    return body(inner);
  };
}

function loop(node: Statement & { kind: 'for' }): Run {
  const list = compile(node.list);
  const test = node.test && compile(node.test);
  const assign = compileTarget(node.target);
  const body = compileStatements(node.body);
  const otherwise = compileStatements(node.otherwise);
  const usesLoop = node.recursive || mentions(node.body, 'loop');

  function* passing(frame: Frame, items: Value): Generator<Value> {
    for (const item of iterate(items)) {
      const inner = frame.inner();
      assign(inner, item);
      if (!test || truthy(test(inner))) yield item;
    }
  }
  const over = (frame: Frame, items: Value, depth: number): 'break' | 'continue' | undefined => {
    const recurse = (inner: Value): Value => {
      const nested = frame.inner(new Output());
      over(nested, inner, depth + 1);
      return made(nested.output.text);
    };
    const context = new Loop(test ? new Iter('generator', passing(frame, items)) : items, depth, node.recursive ? recurse : undefined);
    let completed = false;
    for (let item = context.step(); item !== undefined; item = context.step()) {
      spend();
      const inner = frame.inner();
      if (usesLoop) inner.scope.set('loop', context);
      assign(inner, item);
      const leaves = body(inner);
      if (leaves === 'break') break;
      // Jinja's `else` is for loops none of whose turns came to its end.
      completed ||= leaves === undefined;
    }
    return completed ? undefined : otherwise(frame.inner());
  };
  return (frame) => {
    if (!node.recursive) return over(frame, list(frame), 0);
    const nested = frame.inner(new Output());
    over(nested, list(frame), 0);
    frame.output.write(nested.output.text);
    return undefined;
  };
}

function generation({ body, line }: Statement & { kind: 'generation' }): Run {
  const run = compileStatements(body);
  return runs((frame) => {
    const { rendition, output } = frame;
    rendition.line = line;
    if (rendition.generating) throw new Error('its generation blocks are nested');
    if (output !== rendition.main) rendition.misplaced = true;
    const start = output.text.length;
    rendition.generating = true;
    run(frame.inner());
    rendition.generating = false;
    if (output === rendition.main) rendition.generated.push([start, output.text.length]);
  });
}

class Macro extends PyObject {
  readonly type = 'Macro';
  private readonly node: MacroNode;
  private readonly run: (args: Arguments) => Value;

  constructor(node: MacroNode, run: (args: Arguments) => Value) {
    super();
    this.node = node;
    this.run = run;
  }
  override get callable(): boolean {
    return true;
  }
  override call(args: Arguments): Value {
    return this.run(args);
  }
  override attribute(name: string): Value | undefined {
    if (name === 'name') return this.node.name ?? null;
    if (name === 'arguments') return new Tuple(this.node.parameters);
    if (name === 'caller') return mentions(this.node.body, 'caller');
    if (name === 'catch_kwargs') return mentions(this.node.body, 'kwargs');
    return name === 'catch_varargs' ? mentions(this.node.body, 'varargs') : undefined;
  }
  override text(): string {
    return this.node.name === undefined ? '<Macro anonymous>' : `<Macro '${this.node.name}'>`;
  }
}

function compileMacro(node: MacroNode): (frame: Frame) => Macro {
  const { name = 'caller', parameters } = node;
  const body = compileStatements(node.body);
  const defaults = node.defaults.map(compile);
  const firstDefault = parameters.length - defaults.length;
  const catches = (special: string) => !parameters.includes(special) && mentions(node.body, special);
  const [caller, kwargs, varargs] = ['caller', 'kwargs', 'varargs'].map(catches);

  const pass = (frame: Frame, { positional, named }: Arguments) => {
    const left = new Map(named);
    const given = parameters.map((parameter, i) => {
      if (i < positional.length) return positional[i];
      const value = left.get(parameter);
      left.delete(parameter);
      return value;
    });
    if (caller) {
      frame.scope.set(
        'caller',
        orElse(left.get('caller'), () => new Undefined('No caller defined')),
      );
      left.delete('caller');
    }
    if (kwargs) frame.scope.set('kwargs', Dict.of(left));
    else if (left.size > 0) throw new Error(`macro '${name}' takes no keyword argument '${[...left.keys()][0]}'`);
    if (varargs) frame.scope.set('varargs', new Tuple(madeList(positional.slice(parameters.length))));
    else if (positional.length > parameters.length) throw new Error(`macro '${name}' takes not more than ${parameters.length} argument(s)`);
    parameters.forEach((parameter, i) => {
      const fallback = defaults[i - firstDefault] ?? (() => new Undefined(`parameter '${parameter}' was not provided`));
      frame.scope.set(
        parameter,
        orElse(given[i], () => fallback(frame)),
      );
    });
  };
  return (frame) =>
    new Macro(node, (args) => {
      const inner = frame.inner(new Output());
      pass(inner, args);
      body(inner);
      return inner.output.text;
    });
}

function callBlock(node: Statement & { kind: 'call block' }): Run {
  const macro = compileMacro(node.macro);
  const callee = compile(node.call.callee);
  const args = compileArguments(node.call.args);
  return runs((frame) => {
    frame.rendition.line = node.line;
    const given = args(frame);
    given.named.set('caller', macro(frame));
    frame.output.write(str(call(callee(frame), given)));
  });
}

/** Whether statements, or those inside of them, read a name. */
function mentions(statements: unknown, name: string): boolean {
  if (typeof statements !== 'object' || statements === null) return false;
  if (Array.isArray(statements)) return statements.some((part) => mentions(part, name));
  if ('kind' in statements && statements.kind === 'constant') return false;
  if ('kind' in statements && statements.kind === 'name' && 'line' in statements && 'name' in statements) return statements.name === name;
  return Object.values(statements).some((part) => mentions(part, name));
}

// Expressions

function compile(node: Expression): Evaluate {
  const evaluate = compileBare(node);
  const { line } = node;
  return (frame) => {
    spend();
    frame.rendition.line = line;
    return evaluate(frame);
  };
}

function compileBare(node: Expression): Evaluate {
  switch (node.kind) {
    case 'constant':
      return () => node.value;
    case 'name':
      return (frame) => orElse(frame.scope.get(node.name), () => new Undefined(`'${node.name}' is undefined`));
    case 'list': {
      const items = node.items.map(compile);
      return (frame) => madeList(items.map((item) => item(frame)));
    }
    case 'tuple': {
      const items = node.items.map(compile);
      return (frame) => new Tuple(madeList(items.map((item) => item(frame))));
    }
    case 'dict': {
      const pairs = node.pairs.map(([key, value]) => [compile(key), compile(value)] as const);
      return (frame) => {
        spendItems(pairs.length);
        return Dict.of(pairs.map(([key, value]) => [key(frame), value(frame)] as const));
      };
    }
    case 'attribute': {
      const object = compile(node.object);
      return (frame) => getAttribute(object(frame), node.name);
    }
    case 'item': {
      const [object, index] = [compile(node.object), compile(node.index)];
      return (frame) => getItem(object(frame), index(frame));
    }
    case 'slice': {
      const [start, stop, step] = node.parts.map((part) => (part ? compile(part) : () => null));
      return (frame) => new Slice(start(frame), stop(frame), step(frame));
    }
    case 'call': {
      const callee = compile(node.callee);
      const args = compileArguments(node.args);
      return (frame) => {
        const target = callee(frame);
        const given = args(frame);
        frame.rendition.line = node.line;
        return call(target, given);
      };
    }
    case 'filter': {
      const filter = compileFilter(node);
      const input = node.input ? compile(node.input) : () => null;
      return (frame) => filter(frame, input(frame));
    }
    case 'test': {
      const input = compile(node.input);
      const args = compileArguments(node.args);
      return (frame) => callTest(node.name, withFirst(input(frame), args(frame)));
    }
    case 'unary': {
      const input = compile(node.input);
      const { operator } = node;
      if (operator === 'not') return (frame) => !truthy(input(frame));
      return (frame) => unary(operator, input(frame));
    }
    case 'binary':
      return compileBinary(node.operator, compile(node.left), compile(node.right));
    case 'concat': {
      const parts = node.parts.map(compile);
      return (frame) => made(parts.map((part) => str(part(frame))).join(''));
    }
    case 'compare':
      return compileCompare(node.first, node.rest);
    case 'condition': {
      const [test, yes] = [compile(node.test), compile(node.yes)];
      const otherwise = node.otherwise
        ? compile(node.otherwise)
        : () => new Undefined(`the inline if-expression on line ${node.line} evaluated to false and no else section was defined.`);
      return (frame) => (truthy(test(frame)) ? yes(frame) : otherwise(frame));
    }
  }
}

function compileBinary(operator: string, left: Evaluate, right: Evaluate): Evaluate {
  if (operator === 'and' || operator === 'or') {
    return (frame) => {
      const value = left(frame);
      return truthy(value) === (operator === 'or') ? value : right(frame);
    };
  }
  return (frame) => binary(operator, left(frame), right(frame));
}

function compileCompare(first: Expression, rest: readonly [string, Expression][]): Evaluate {
  const start = compile(first);
  const steps = rest.map(([operator, value]) => [operator, compile(value)] as const);
  return (frame) => {
    let left = start(frame);
    for (const [operator, value] of steps) {
      const right = value(frame);
      if (!compareOne(operator, left, right)) return false;
      left = right;
    }
    return true;
  };
}

function compareOne(operator: string, left: Value, right: Value): boolean {
  switch (operator) {
    case '==':
      return equal(left, right);
    case '!=':
      return !equal(left, right);
    case 'in':
      return contains(right, left);
    case 'not in':
      return !contains(right, left);
  }
  return ordered(operator, left, right);
}

const withFirst = (value: Value, args: Arguments): Arguments => ({ positional: [value, ...args.positional], named: args.named });

/** A filter and those before it, on a value or on the text of a block. */
function compileFilter(node: FilterNode): (frame: Frame, input: Value) => Value {
  const args = compileArguments(node.args);
  const before = node.input?.kind === 'filter' && isBlockFilter(node.input) ? compileFilter(node.input) : undefined;
  return (frame, input) => {
    const value = before ? before(frame, input) : input;
    const given = args(frame);
    frame.rendition.line = node.line;
    return callFilter(node.name, withFirst(value, given));
  };
}

/** Whether a chain of filters begins with the text of a block. */
function isBlockFilter(node: FilterNode): boolean {
  return node.input === undefined || (node.input.kind === 'filter' && isBlockFilter(node.input));
}

function compileArguments({ positional, named, spread, spreadNamed }: CallArguments): (frame: Frame) => Arguments {
  const values = positional.map(compile);
  const namedValues = named.map(([name, value]) => [name, compile(value)] as const);
  const more = spread && compile(spread);
  const moreNamed = spreadNamed && compile(spreadNamed);
  return (frame) => {
    const result: Arguments = {
      positional: values.map((value) => value(frame)),
      named: new Map(namedValues.map(([name, value]) => [name, value(frame)])),
    };
    if (more) result.positional.push(...listOf(more(frame)));
    if (moreNamed) {
      const pairs = moreNamed(frame);
      if (!(pairs instanceof Dict)) throw new Error(`argument after ** must be a mapping, not ${typeName(pairs)}`);
      for (const [name, value] of pairs.pairs()) result.named.set(asText(name) ?? str(name), value);
    }
    return result;
  };
}
