import { percentFormat } from './format.js';
import { made, madeList, spend, spendItems, spendSearch, spendText } from './meter.js';
import { attributeOf } from './methods.js';
import { arithmetic, double, float, int, isFloat } from './numbers.js';
import { str } from './print.js';
import { pointCount, pointsOf, sliceText } from './text.js';
import {
  type Arguments,
  asNumber,
  asSequence,
  asText,
  Dict,
  defined,
  equal,
  Iter,
  isInt,
  Markup,
  orElse,
  PyObject,
  Range,
  Slice,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

/** What expressions do with values: operators, attributes, subscripts, iteration and calls, as Python and Jinja's sandbox do them. */

export function binary(operator: string, a: Value, b: Value): Value {
  defined(a);
  if (a instanceof Markup || b instanceof Markup) {
    throw new Error(`"${operator}" with a text that safe or escape made is not supported: Python escapes the other text; join them with ~`);
  }
  if (operator === '%' && typeof a === 'string') return percentFormat(a, b);
  defined(b);
  const [x, y] = [asNumber(a), asNumber(b)];
  if (x !== undefined && y !== undefined) return arithmetic(operator, x, y);
  if (operator === '+') {
    if (typeof a === 'string' && typeof b === 'string') return made(a + b);
    if (Array.isArray(a) && Array.isArray(b)) {
      spendItems(a.length + b.length);
      return [...a, ...b];
    }
    if (a instanceof Tuple && b instanceof Tuple) return new Tuple(madeList([...a.items, ...b.items]));
  }
  if (operator === '*') {
    if (typeof a === 'bigint' || typeof b === 'bigint') throw new Error('cannot fit a number into an index-sized integer');
    const [sequence, count] = isInt(b) || typeof b === 'boolean' ? [a, Number(b)] : [b, Number(a)];
    if (isInt(b) || isInt(a) || typeof a === 'boolean' || typeof b === 'boolean') {
      const result = repeated(sequence, Math.max(0, count));
      if (result !== undefined) return result;
    }
  }
  throw new Error(`unsupported operand type(s) for ${operator}: '${typeName(a)}' and '${typeName(b)}'`);
}

function repeated(sequence: Value, count: number): Value | undefined {
  if (typeof sequence === 'string') {
    spendText(sequence.length * count);
    return sequence.repeat(sequence === '' ? 0 : count);
  }
  const items = asSequence(sequence);
  if (!items) return undefined;
  spendItems(items.length * count);
  const result = Array.from({ length: items.length * count }, (_, i) => items[i % items.length]);
  return Array.isArray(sequence) ? result : new Tuple(result);
}

export function unary(operator: '-' | '+', value: Value): Value {
  const number = asNumber(defined(value));
  if (number === undefined) throw new Error(`bad operand type for unary ${operator}: '${typeName(value)}'`);
  if (operator === '+') return number;
  return isFloat(number) ? float(-double(number)) : int(-BigInt(number));
}

/** `item in container`. */
export function contains(container: Value, item: Value): boolean {
  const text = asText(container);
  if (text !== undefined) {
    const part = asText(item);
    if (part === undefined) throw new Error(`'in <string>' requires string as left operand, not ${typeName(item)}`);
    spendSearch(text, part);
    return text.includes(part);
  }
  if (container instanceof Dict) return container.has(item);
  if (container instanceof View && container.kind === 'keys') return container.dict.has(item);
  if (!isIterable(container)) throw new Error(`argument of type '${typeName(container)}' is not iterable`);
  for (const candidate of iterate(container)) if (equal(candidate, item)) return true;
  return false;
}

/** `len(value)`, or undefined for what has no length. */
export function lengthOf(value: Value): number | undefined {
  const text = asText(value);
  if (text !== undefined) return pointCount(text);
  if (value instanceof Dict) return value.size;
  if (value instanceof View) return value.dict.size;
  if (value instanceof Range) return value.length;
  if (value instanceof Undefined) return 0;
  return asSequence(value)?.length;
}

export function isIterable(value: Value): boolean {
  return lengthOf(value) !== undefined || value instanceof Iter;
}

/** The items of a value, one after the other. Throws for what cannot be iterated. */
export function iterate(value: Value): Iterable<Value> {
  const items = asSequence(value);
  if (items) return items;
  const text = asText(value);
  if (text !== undefined) return madeList(pointsOf(text));
  if (value instanceof Dict) return value.keys();
  if (value instanceof View) return value.items();
  if (value instanceof Undefined) return [];
  if (value instanceof Range) return numbersOf(value);
  if (value instanceof Iter) return { [Symbol.iterator]: () => stepping(value.source) };
  throw new Error(`'${typeName(value)}' object is not iterable`);
}

function* numbersOf(range: Range): Generator<Value> {
  for (let i = 0; i < range.length; i++) yield range.at(i);
}

/** An iterator that is not closed where a loop ends early: what is left can be read later. */
function stepping(source: Iterator<Value>): Iterator<Value> {
  return {
    next: () => {
      spend();
      return source.next();
    },
  };
}

/** `list(value)`: a new array. */
export function listOf(value: Value): Value[] {
  const result: Value[] = [];
  for (const item of iterate(value)) {
    result.push(item);
    if (result.length % 1024 === 0) spendItems(1024);
  }
  spendItems(result.length % 1024);
  return result;
}

/** `start, stop, step` of a slice of something of this length, as `slice.indices` gives them. */
export function sliceIndices(slice: Slice, length: number): { start: number; stop: number; step: number } {
  const whole = (value: Value): number | undefined => {
    if (value === null) return undefined;
    if (isInt(value) || typeof value === 'boolean') return Number(value);
    throw new TypeFailure('slice indices must be integers or None');
  };
  const step = whole(slice.step) ?? 1;
  if (step === 0) throw new Error('slice step cannot be zero');
  const [low, high] = step > 0 ? [0, length] : [-1, length - 1];
  const bound = (value: number | undefined, fallback: number) =>
    value === undefined ? fallback : Math.min(Math.max(value < 0 ? value + length : value, low), high);
  return { start: bound(whole(slice.start), step > 0 ? low : high), stop: bound(whole(slice.stop), step > 0 ? high : low), step };
}

/** An error for which a subscript is undefined, instead of failing. */
class TypeFailure extends Error {}

/** `object[index]` of Python: undefined of JavaScript where it has no such item. */
function itemOf(object: Value, index: Value): Value | undefined {
  if (object instanceof Dict)
    return Array.isArray(index) || index instanceof Dict || index instanceof Slice ? undefined : object.get(index);
  const text = asText(object);
  const items = asSequence(object);
  const length = text === undefined ? (items?.length ?? (object instanceof Range ? object.length : undefined)) : pointCount(text);
  if (length === undefined) return undefined;
  if (index instanceof Slice) {
    const { start, stop, step } = sliceIndices(index, length);
    if (text !== undefined && step === 1) return sliceText(text, start, Math.max(start, stop));
    const count = Math.max(0, Math.ceil((stop - start) / step));
    if (object instanceof Range) return new Range(object.at(start), object.at(stop), object.step * step, count);
    const source: readonly Value[] = text === undefined ? (items ?? []) : pointsOf(text);
    const part = madeList(Array.from({ length: count }, (_, i) => source[start + i * step]));
    if (text !== undefined) return part.join('');
    return Array.isArray(object) ? part : new Tuple(part);
  }
  if (!isInt(index) && typeof index !== 'boolean') return undefined;
  const at = Number(index) < 0 ? Number(index) + length : Number(index);
  if (at < 0 || at >= length) return undefined;
  if (object instanceof Range) return object.at(at);
  return text === undefined ? items?.[at] : sliceText(text, at, at + 1);
}

/** `object[index]` of a template: an item, or else an attribute; undefined where there is neither. */
export function getItem(object: Value, index: Value): Value {
  if (object instanceof Undefined) object.fail();
  let found: Value | undefined;
  try {
    found = itemOf(object, index);
  } catch (error) {
    if (!(error instanceof TypeFailure)) throw error;
  }
  if (found !== undefined) return found;
  const name = asText(index);
  return orElse(name === undefined ? undefined : attributeOf(object, name), () => missing(object, index));
}

/** `object.name` of a template: an attribute, or else an item. */
export function getAttribute(object: Value, name: string): Value {
  if (object instanceof Undefined) object.fail();
  return orElse(
    orElse(attributeOf(object, name), () => itemOf(object, name)),
    () => missing(object, name),
  );
}

export function missing(object: Value, name: Value): Undefined {
  const owner = object === null ? 'None' : `${typeName(object)} object`;
  const text = asText(name);
  return new Undefined(text === undefined ? `${owner} has no element ${str(name)}` : `'${owner}' has no attribute '${text}'`);
}

/** `callee(…)`. */
export function call(callee: Value, args: Arguments): Value {
  spend();
  if (callee instanceof Undefined) callee.fail();
  if (callee instanceof PyObject) return callee.call(args);
  throw new Error(`'${typeName(callee)}' object is not callable`);
}

/** The values of a function's parameters; those that end in "?" may be missing. */
export function bind(name: string, parameters: readonly string[], { positional, named }: Arguments): Value[] {
  if (positional.length > parameters.length)
    throw new Error(`${name}() takes at most ${parameters.length} arguments (${positional.length} given)`);
  const values: Value[] = [...positional];
  parameters.forEach((parameter, i) => {
    const optional = parameter.endsWith('?');
    const given = named.get(optional ? parameter.slice(0, -1) : parameter);
    if (given !== undefined && i < positional.length) throw new Error(`${name}() got multiple values for argument '${parameter}'`);
    if (given !== undefined) values[i] = given;
    else if (!optional && i >= positional.length) throw new Error(`${name}() is missing the argument '${parameter}'`);
  });
  for (const key of named.keys()) {
    if (!parameters.includes(key) && !parameters.includes(`${key}?`))
      throw new Error(`${name}() got an unexpected keyword argument '${key}'`);
  }
  return values;
}

/** An argument that must be whole. */
export function wholeOf(value: Value, place: string): number {
  if (isInt(value) || typeof value === 'boolean') return Number(value);
  throw new Error(`${place}: '${typeName(defined(value))}' object cannot be interpreted as an integer`);
}
