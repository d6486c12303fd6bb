import { spend, spendItems, spendText } from './meter.js';
import { double, Float, type Int, isFloat, type PyNumber } from './numbers.js';
import { compareText } from './text.js';

/** The values of templates: Python's types that chat templates meet. A list is an array, a `str` a string, `None` null. */
export type Value =
  | null
  | boolean
  | number
  | bigint
  | Float
  | string
  | Markup
  | Value[]
  | Tuple
  | Dict
  | View
  | Range
  | Iter
  | Slice
  | Undefined
  | PyObject;

/** What a call passes. */
export interface Arguments {
  positional: Value[];
  named: Map<string, Value>;
}

/** What a missing variable, key or attribute gives: prints nothing, is empty and false, and fails in everything else. */
export class Undefined {
  readonly message: string;

  constructor(message: string) {
    this.message = message;
  }
  fail(): never {
    throw new Error(this.message);
  }
}

/** A text that `safe` or `escape` made: Python escapes what is added to it. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export class Tuple {
  /** `names`: of the parts of a named tuple. */
  readonly items: readonly Value[];
  readonly names: readonly string[];

  constructor(items: readonly Value[], names: readonly string[] = []) {
    this.items = items;
    this.names = names;
  }
}

/** Python's `range`, never longer than `limits.range`. */
export class Range {
  readonly start: number;
  readonly stop: number;
  readonly step: number;
  readonly length: number;

  constructor(start: number, stop: number, step: number, length: number) {
    this.start = start;
    this.stop = stop;
    this.step = step;
    this.length = length;
  }
  at(index: number): number {
    return this.start + index * this.step;
  }
}

/** An iterator, such as a filter gives: it can be read once. */
export class Iter {
  readonly type: string;
  readonly source: Iterator<Value>;

  constructor(type: string, source: Iterator<Value>) {
    this.type = type;
    this.source = source;
  }
}

export class Slice {
  readonly start: Value;
  readonly stop: Value;
  readonly step: Value;

  constructor(start: Value, stop: Value, step: Value) {
    this.start = start;
    this.stop = stop;
    this.step = step;
  }
}

/** Functions and whatever has only attributes. */
export abstract class PyObject {
  abstract readonly type: string;
  attribute(_name: string): Value | undefined {
    return undefined;
  }
  call(_args: Arguments): Value {
    throw new Error(`${typeName(this)} object is not callable`);
  }
  /** Whether Python could call it. */
  get callable(): boolean {
    return false;
  }
  text(): string {
    throw new Error(`printing a ${this.type} is not supported: Python writes where it lies in memory`);
  }
}

export class Func extends PyObject {
  readonly name: string;
  private readonly run: (args: Arguments) => Value;
  readonly type;

  constructor(name: string, run: (args: Arguments) => Value, type = 'function') {
    super();
    this.name = name;
    this.run = run;
    this.type = type;
  }
  override call(args: Arguments): Value {
    return this.run(args);
  }
  override get callable(): boolean {
    return true;
  }
}

type Key = string | number | bigint | symbol | null | object;

/** What two keys that are equal in Python share: 1, 1.0 and True are one key. */
function keyOf(value: Value): Key {
  if (typeof value === 'string') return value;
  if (typeof value === 'boolean') return Number(value);
  if (value instanceof Float) return value.value;
  if (value instanceof Markup) return value.text;
  if (value instanceof Undefined) return Undefined;
  if (value instanceof Tuple) {
    spend(value.items.length);
    const parts = value.items.map((item) => {
      const key = keyOf(item);
      if (typeof key === 'object' && key !== null) throw new Error('a tuple that holds an object is not supported as a key');
      return [typeof key, String(key)];
    });
    const text = JSON.stringify(parts);
    spendText(text.length);
    return Symbol.for(text);
  }
  if (Array.isArray(value) || value instanceof Dict || value instanceof Slice) throw new Error(`unhashable type: '${typeName(value)}'`);
  return value;
}

/** A `dict`: keys of any kind, in the order in which they came. */
export class Dict {
  /** Where it is given: the keys whose values were read. */
  reads?: Set<string>;
  private readonly entries = new Map<Key, readonly [Value, Value]>();

  get size(): number {
    return this.entries.size;
  }
  get(key: Value): Value | undefined {
    const value = this.entries.get(keyOf(key))?.[1];
    if (value !== undefined && typeof key === 'string') this.reads?.add(key);
    return value;
  }
  has(key: Value): boolean {
    return this.entries.has(keyOf(key));
  }
  set(key: Value, value: Value): void {
    const found = keyOf(key);
    const entry = this.entries.get(found);
    this.entries.set(found, [entry ? entry[0] : key, value]);
  }
  keys(): Value[] {
    spendItems(this.size);
    return Array.from(this.entries.values(), ([key]) => key);
  }
  /** Key and value of each. All count as read. */
  pairs(): (readonly [Value, Value])[] {
    spendItems(this.size);
    const pairs = [...this.entries.values()];
    if (this.reads) for (const [key] of pairs) if (typeof key === 'string') this.reads.add(key);
    return pairs;
  }
  copy(): Dict {
    spendItems(this.size);
    return Dict.of(this.pairs());
  }
  static of(pairs: Iterable<readonly [Value, Value]>): Dict {
    const dict = new Dict();
    for (const [key, value] of pairs) dict.set(key, value);
    return dict;
  }
}

/** `dict.keys()`, `dict.values()`, `dict.items()`. */
export class View {
  readonly dict: Dict;
  readonly kind: 'keys' | 'values' | 'items';

  constructor(dict: Dict, kind: 'keys' | 'values' | 'items') {
    this.dict = dict;
    this.kind = kind;
  }
  items(): Value[] {
    if (this.kind === 'keys') return this.dict.keys();
    return this.dict.pairs().map(([key, value]) => (this.kind === 'values' ? value : new Tuple([key, value])));
  }
}

export const isInt = (value: Value): value is Int => typeof value === 'bigint' || (typeof value === 'number' && Number.isInteger(value));

/** The number that a value is in arithmetic (True is 1), or undefined. */
export function asNumber(value: Value): PyNumber | undefined {
  if (typeof value === 'number' || typeof value === 'bigint' || value instanceof Float) return value;
  return typeof value === 'boolean' ? Number(value) : undefined;
}

/** The text of a `str`, or undefined. */
export function asText(value: Value): string | undefined {
  if (typeof value === 'string') return value;
  return value instanceof Markup ? value.text : undefined;
}

/** A list's or tuple's items, or undefined. */
export function asSequence(value: Value): readonly Value[] | undefined {
  if (Array.isArray(value)) return value;
  return value instanceof Tuple ? value.items : undefined;
}

/** The name of a value's type, as Python's errors have it. */
export function typeName(value: Value): string {
  if (value === null) return 'NoneType';
  if (typeof value === 'boolean') return 'bool';
  if (isFloat(value)) return 'float';
  if (isInt(value)) return 'int';
  if (typeof value === 'string') return 'str';
  if (Array.isArray(value)) return 'list';
  if (value instanceof Tuple) return 'tuple';
  if (value instanceof Dict) return 'dict';
  if (value instanceof View) return `dict_${value.kind}`;
  if (value instanceof Range) return 'range';
  if (value instanceof Markup) return 'Markup';
  if (value instanceof Slice) return 'slice';
  if (value instanceof Undefined) return 'Undefined';
  return (value as Iter | PyObject).type;
}

/** `value`, or what `make` gives where it is not there; `??` would take None for missing. */
export function orElse<T extends Value | undefined>(value: Value | undefined, make: () => T): Value | T {
  return value === undefined ? make() : value;
}

/** Throws for an undefined value, which most operations do not take. */
export function defined(value: Value): Value {
  if (value instanceof Undefined) value.fail();
  return value;
}

export function truthy(value: Value): boolean {
  if (typeof value === 'boolean') return value;
  if (value === null || value instanceof Undefined) return false;
  const number = asNumber(value);
  if (number !== undefined) return double(number) !== 0;
  return sizeOf(value) !== 0;
}

/** `len(value)` but for texts, whose size here is only whether they are empty; undefined for what has no length. */
function sizeOf(value: Value): number | undefined {
  if (typeof value === 'string') return value.length;
  if (value instanceof Markup) return value.text.length;
  if (Array.isArray(value)) return value.length;
  if (value instanceof Tuple) return value.items.length;
  if (value instanceof Dict) return value.size;
  if (value instanceof View) return value.dict.size;
  if (value instanceof Range) return value.length;
  return undefined;
}

/** `a == b`. */
export function equal(a: Value, b: Value): boolean {
  spend();
  const [text, other] = [asText(a), asText(b)];
  if (text !== undefined || other !== undefined) {
    if (text?.length !== other?.length) return false;
    spendText(text?.length ?? 0);
    return text === other;
  }
  if (a === b) return !Number.isNaN(a);
  const [x, y] = [asNumber(a), asNumber(b)];
  if (x !== undefined && y !== undefined) {
    const [one, other] = [rawNumber(x), rawNumber(y)];
    // JavaScript orders a bigint and a double exactly.
    return typeof one === typeof other ? one === other : one <= other && one >= other;
  }
  if (a instanceof Dict && b instanceof Dict) {
    if (a.size !== b.size) return false;
    return a.pairs().every(([key, value]) => {
      const found = b.get(key);
      return found !== undefined && equal(value, found);
    });
  }
  const [items, others] = [asSequence(a), asSequence(b)];
  if (items && others) {
    return Array.isArray(a) === Array.isArray(b) && items.length === others.length && items.every((item, i) => equal(item, others[i]));
  }
  if (a instanceof Range && b instanceof Range) {
    return a.length === b.length && (a.length === 0 || (a.start === b.start && (a.length === 1 || a.step === b.step)));
  }
  if (a instanceof View && b instanceof View && (a.kind !== 'values' || b.kind !== 'values')) {
    throw new Error('comparing views of dicts is not supported: Python compares them as sets');
  }
  return a instanceof Undefined && b instanceof Undefined;
}

const rawNumber = (value: PyNumber): number | bigint => (value instanceof Float ? value.value : value);

/** `a < b`, `a <= b`, `a > b`, `a >= b`. Throws for values that Python does not order. */
export function ordered(operator: string, a: Value, b: Value): boolean {
  spend();
  defined(a);
  defined(b);
  const [x, y] = [asNumber(a), asNumber(b)];
  if (x !== undefined && y !== undefined) {
    const [one, other] = [rawNumber(x), rawNumber(y)];
    return operator === '<' ? one < other : operator === '<=' ? one <= other : operator === '>' ? one > other : one >= other;
  }
  const [text, otherText] = [asText(a), asText(b)];
  if (text !== undefined && otherText !== undefined) {
    spendText(Math.min(text.length, otherText.length));
    return byOrder(operator, compareText(text, otherText));
  }
  const [items, others] = [asSequence(a), asSequence(b)];
  if (items && others && Array.isArray(a) === Array.isArray(b)) {
    const length = Math.min(items.length, others.length);
    for (let i = 0; i < length; i++) if (!equal(items[i], others[i])) return ordered(operator, items[i], others[i]);
    return byOrder(operator, items.length - others.length);
  }
  throw new Error(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

function byOrder(operator: string, order: number): boolean {
  return operator === '<' ? order < 0 : operator === '<=' ? order <= 0 : operator === '>' ? order > 0 : order >= 0;
}
