import { limits, madeList } from './meter.js';
import { fromKeys } from './methods.js';
import { bind, iterate, lengthOf, listOf, wholeOf } from './operations.js';
import { repr, str } from './print.js';
import { type Arguments, Dict, equal, Func, PyObject, Range, Tuple, Undefined, type Value } from './values.js';

/** The objects that Jinja itself gives to templates, and its functions. */

/** The variable `loop` of a loop, and what steps through its items. */
export class Loop extends PyObject {
  readonly type = 'LoopContext';
  private index0 = -1;
  private before: Value | undefined;
  private current: Value | undefined;
  private ahead: IteratorResult<Value> | undefined;
  private known: number | undefined;
  private source: Iterator<Value>;
  private lastChanged: Value | undefined;

  private readonly depth0: number;
  private readonly recurse: ((items: Value) => Value) | undefined;

  constructor(items: Value, depth0: number, recurse: ((items: Value) => Value) | undefined) {
    super();
    this.depth0 = depth0;
    this.recurse = recurse;
    this.known = lengthOf(items);
    this.source = iterate(items)[Symbol.iterator]();
  }

  /** The next item, or undefined of JavaScript behind the last. */
  step(): Value | undefined {
    const next = this.peek();
    this.ahead = undefined;
    if (next.done) return undefined;
    this.index0++;
    this.before = this.current;
    this.current = next.value;
    return next.value;
  }

  private peek(): IteratorResult<Value> {
    this.ahead ??= this.source.next();
    return this.ahead;
  }

  private get length(): number {
    if (this.known === undefined) {
      const rest: Value[] = [];
      for (let next = this.peek(); !next.done; next = this.source.next()) rest.push(next.value);
      this.source = madeList(rest).values();
      this.ahead = undefined;
      this.known = rest.length + this.index0 + 1;
    }
    return this.known;
  }

  override attribute(name: string): Value | undefined {
    switch (name) {
      case 'index':
        return this.index0 + 1;
      case 'index0':
        return this.index0;
      case 'first':
        return this.index0 === 0;
      case 'last':
        return this.peek().done === true;
      case 'length':
        return this.length;
      case 'revindex':
        return this.length - this.index0;
      case 'revindex0':
        return this.length - this.index0 - 1;
      case 'depth':
        return this.depth0 + 1;
      case 'depth0':
        return this.depth0;
      case 'previtem':
        return this.index0 === 0 || this.before === undefined ? new Undefined('there is no previous item') : this.before;
      case 'nextitem': {
        const next = this.peek();
        return next.done ? new Undefined('there is no next item') : next.value;
      }
      case 'cycle':
        return new Func(name, ({ positional }) => {
          if (positional.length === 0) throw new Error('no items for cycling given');
          return positional[this.index0 % positional.length];
        });
      case 'changed':
        return new Func(name, ({ positional }) => {
          const now = new Tuple(positional);
          const changed = this.lastChanged === undefined || !equal(this.lastChanged, now);
          this.lastChanged = now;
          return changed;
        });
    }
    return undefined;
  }

  override get callable(): boolean {
    return true;
  }

  override call(args: Arguments): Value {
    if (!this.recurse) throw new Error("The loop must have the 'recursive' marker to be called recursively.");
    return this.recurse(bind('loop', ['iterable'], args)[0]);
  }

  override text(): string {
    return `<LoopContext ${this.index0 + 1}/${this.length}>`;
  }
}

/** `namespace(…)`: attributes that `{% set object.name = … %}` assigns. */
export class Namespace extends PyObject {
  readonly type = 'TemplateNamespace';
  private readonly attributes: Dict;

  constructor(args: Arguments) {
    super();
    this.attributes = dictOf(args);
    for (const key of this.attributes.keys()) Namespace.check(str(key));
  }

  private static check(name: string): void {
    if (name.startsWith('_'))
      throw new Error(`Chat templates cannot store underscore-prefixed attributes on a namespace, but got '${name}'`);
  }

  override attribute(name: string): Value | undefined {
    return this.attributes.get(name);
  }

  set(name: string, value: Value): void {
    Namespace.check(name);
    this.attributes.set(name, value);
  }

  override text(): string {
    return `<Namespace ${repr(this.attributes)}>`;
  }
}

/** `dict(…)`. */
export function dictOf({ positional, named }: Arguments): Dict {
  if (positional.length > 1) throw new Error(`dict expected at most 1 argument, got ${positional.length}`);
  const [source] = positional;
  const dict = source instanceof Dict ? source.copy() : new Dict();
  if (source !== undefined && !(source instanceof Dict)) {
    for (const pair of iterate(source)) {
      const parts = listOf(pair);
      if (parts.length !== 2) throw new Error(`a pair of key and value has ${parts.length} parts`);
      dict.set(parts[0], parts[1]);
    }
  }
  for (const [name, value] of named) dict.set(name, value);
  return dict;
}

class DictFunction extends PyObject {
  readonly type = 'TemplateDict';
  override get callable(): boolean {
    return true;
  }
  override call(args: Arguments): Value {
    return dictOf(args);
  }
  override attribute(name: string): Value | undefined {
    if (name !== 'fromkeys') return undefined;
    return new Func(name, (args) => {
      const [keys, value = null] = bind(name, ['iterable', 'value?'], args);
      return fromKeys(keys, value);
    });
  }
}

class Cycler extends PyObject {
  readonly type = 'Cycler';
  private at = 0;
  private readonly items: Value[];

  constructor(items: Value[]) {
    super();
    this.items = items;
    if (items.length === 0) throw new Error('at least one item has to be provided');
  }
  override attribute(name: string): Value | undefined {
    if (name === 'current') return this.items[this.at];
    if (name === 'items') return new Tuple(this.items);
    if (name === 'pos') return this.at;
    if (name !== 'next' && name !== 'reset') return undefined;
    return new Func(name, () => {
      const current = this.items[this.at];
      this.at = name === 'reset' ? 0 : (this.at + 1) % this.items.length;
      return name === 'reset' ? null : current;
    });
  }
}

class Joiner extends PyObject {
  readonly type = 'Joiner';
  private used = false;
  private readonly separator: Value;

  constructor(separator: Value) {
    super();
    this.separator = separator;
  }
  override get callable(): boolean {
    return true;
  }
  override call(): Value {
    const first = !this.used;
    this.used = true;
    return first ? '' : this.separator;
  }
  override attribute(name: string): Value | undefined {
    return name === 'sep' ? this.separator : name === 'used' ? this.used : undefined;
  }
}

/** Python's `range`, of bounded length as in Jinja's sandbox. */
function range({ positional, named }: Arguments): Range {
  const isWhole = (value: Value) => typeof value === 'boolean' || (typeof value === 'number' && Number.isInteger(value));
  if (positional.length < 1 || positional.length > 3 || named.size > 0 || !positional.every(isWhole)) {
    throw new Error('range() takes one to three integers');
  }
  const bounds = positional.map((value) => wholeOf(value, 'range'));
  const [start, stop] = bounds.length === 1 ? [0, bounds[0]] : bounds;
  const step = bounds[2] ?? 1;
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (step === 0 || length > limits.range) throw new Error(`range(${bounds}) is longer than ${limits.range}, or never ends`);
  return new Range(start, stop, step, length);
}

export function globals(): Map<string, Value> {
  return new Map<string, Value>([
    ['range', new Func('range', range, 'type')],
    ['dict', new DictFunction()],
    ['namespace', new Func('namespace', (args) => new Namespace(args), 'type')],
    ['cycler', new Func('cycler', ({ positional }) => new Cycler(positional), 'type')],
    ['joiner', new Func('joiner', (args) => new Joiner(bind('joiner', ['sep?'], args)[0] ?? ', '), 'type')],
    [
      'lipsum',
      new Func('lipsum', () => {
        throw new Error('lipsum() is not supported: its result is random');
      }),
    ],
  ]);
}
