import { compile, compileArguments, compileFilter } from './expressions.js';
import { made, madeList, spend } from './meter.js';
import type { MacroNode, Statement, Target } from './nodes.js';
import { Loop, Namespace } from './objects.js';
import { call, iterate, listOf } from './operations.js';
import { str } from './print.js';
import { type Frame, Output } from './scope.js';
import { type Arguments, Dict, Iter, orElse, PyObject, Tuple, truthy, Undefined, type Value } from './values.js';

/**
 * Statements to functions, once per template. Names are looked up when they are read, from the inside outwards, which is what Jinja's own
 * compiler amounts to: loops, macros and the bodies of blocks have a scope of their own, and `if` has none.
 */

/** Runs a statement; tells how it leaves the loop around it, if it does. */
type Run = (frame: Frame) => 'break' | 'continue' | undefined;

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
