import { callFilter, callTest } from './filters.js';
import { made, madeList, spend, spendItems } from './meter.js';
import type { CallArguments, Expression, FilterNode } from './nodes.js';
import { binary, call, contains, getAttribute, getItem, listOf, unary } from './operations.js';
import { str } from './print.js';
import type { Frame } from './scope.js';
import { type Arguments, asText, Dict, equal, ordered, orElse, Slice, Tuple, truthy, typeName, Undefined, type Value } from './values.js';

/** Expressions to functions that evaluate them. */

export type Evaluate = (frame: Frame) => Value;

export function compile(node: Expression): Evaluate {
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
export function compileFilter(node: FilterNode): (frame: Frame, input: Value) => Value {
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

export function compileArguments({ positional, named, spread, spreadNamed }: CallArguments): (frame: Frame) => Arguments {
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
