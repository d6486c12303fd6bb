import { callFilter, callTest } from './filters.js';
import { madeList, spend, spendItems, spendText } from './meter.js';
import { binary, bind, getItem, isIterable, iterate, listOf, wholeOf } from './operations.js';
import { str } from './print.js';
import { pointsOf } from './text.js';
import {
  type Arguments,
  asText,
  Dict,
  equal,
  Iter,
  ordered,
  orElse,
  Range,
  Tuple,
  truthy,
  typeName,
  Undefined,
  type Value,
} from './values.js';

/** Jinja's filters on collections. What Python gives as an iterator is one here: it is read once, and only as far as it is asked for. */

type CollectionFilter = (args: Arguments) => Value;

const filter =
  (name: string, parameters: readonly string[], run: (...values: Value[]) => Value): CollectionFilter =>
  (args) =>
    run(...bind(name, parameters, args));

const generator = (source: Iterator<Value>) => new Iter('generator', source);

/** A function that reads `a.b.0` from a value; "default" stands for what is undefined on the way. */
function reader(attribute: Value, instead: Value = null): (item: Value) => Value {
  const text = asText(attribute);
  const parts: Value[] =
    text === undefined
      ? attribute === null
        ? []
        : [attribute]
      : text.split('.').map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  return (item) => {
    let result = item;
    for (const part of parts) {
      result = getItem(result, part);
      if (instead !== null && result instanceof Undefined) result = instead;
    }
    return result;
  };
}

const folded = (value: Value): Value => asText(value)?.toLowerCase() ?? value;
const keyReader = (attribute: Value, caseSensitive: Value, instead: Value = null) => {
  const read = reader(attribute, instead);
  return truthy(caseSensitive) ? read : (item: Value) => folded(read(item));
};

/** Python's stable sort. */
function sorted(items: readonly Value[], key: (item: Value) => Value, reverse: Value = false): Value[] {
  const keyed = items.map((item) => ({ item, key: key(item) }));
  const sign = truthy(reverse) ? -1 : 1;
  keyed.sort((a, b) => (ordered('<', a.key, b.key) ? -sign : ordered('<', b.key, a.key) ? sign : 0));
  return madeList(keyed.map(({ item }) => item));
}

function sort(value: Value, reverse: Value = false, caseSensitive: Value = false, attribute: Value = null): Value {
  const readers = (asText(attribute)?.split(',') ?? [attribute]).map((part) => keyReader(part, caseSensitive));
  return sorted(listOf(value), (item) => readers.map((read) => read(item)), reverse);
}

function dictSort(value: Value, caseSensitive: Value = false, by: Value = 'key', reverse: Value = false): Value {
  if (!(value instanceof Dict)) throw new Error(`'${typeName(value)}' object has no attribute 'items'`);
  const at = ['key', 'value'].indexOf(str(by));
  if (at < 0) throw new Error('You can only sort by either "key" or "value"');
  const pairs = value.pairs().map((pair) => new Tuple(pair));
  const key = (pair: Value) => (pair as Tuple).items[at];
  return sorted(pairs, truthy(caseSensitive) ? key : (pair) => folded(key(pair)), reverse);
}

function* unique(value: Value, caseSensitive: Value = false, attribute: Value = null): Generator<Value> {
  const key = keyReader(attribute, caseSensitive);
  const seen = new Dict();
  for (const item of iterate(value)) {
    const found = key(item);
    if (seen.has(found)) continue;
    seen.set(found, null);
    yield item;
  }
}

function extreme(operator: '<' | '>') {
  return (value: Value, caseSensitive: Value = false, attribute: Value = null): Value => {
    const key = keyReader(attribute, caseSensitive);
    let best: Value | undefined;
    let bestKey: Value = null;
    for (const item of iterate(value)) {
      const found = key(item);
      if (best !== undefined && !ordered(operator, found, bestKey)) continue;
      best = item;
      bestKey = found;
    }
    return orElse(best, () => new Undefined('No aggregated item, sequence was empty.'));
  };
}

function groupBy(value: Value, attribute: Value, instead: Value = null, caseSensitive: Value = false): Value {
  const key = keyReader(attribute, caseSensitive, instead);
  const groups: { key: Value; items: Value[] }[] = [];
  for (const item of sorted(listOf(value), key)) {
    const found = key(item);
    const last = groups.at(-1);
    if (last && equal(last.key, found)) last.items.push(item);
    else groups.push({ key: found, items: [item] });
  }
  const shown = reader(attribute, instead);
  return groups.map(({ key, items }) => new Tuple([truthy(caseSensitive) ? key : shown(items[0]), madeList(items)], ['grouper', 'list']));
}

function join(value: Value, separator: Value = '', attribute: Value = null): Value {
  const read = reader(attribute);
  const mark = str(separator);
  let result = '';
  let first = true;
  for (const item of iterate(value)) {
    const part = (first ? '' : mark) + str(read(item));
    spendText(part.length);
    result += part;
    first = false;
  }
  spendText(result.length);
  return result;
}

function first(value: Value): Value {
  for (const item of iterate(value)) return item;
  return new Undefined('No first item, sequence was empty.');
}

function last(value: Value): Value {
  if (value instanceof Iter) throw new Error(`'${value.type}' object is not reversible`);
  return orElse(listOf(value).at(-1), () => new Undefined('No last item, sequence was empty.'));
}

function reverse(value: Value): Value {
  const text = asText(value);
  if (text !== undefined) return pointsOf(text).reverse().join('');
  if (!isIterable(value)) throw new Error('argument must be iterable');
  const items = listOf(value).reverse();
  if (value instanceof Iter || value instanceof Undefined) return items;
  return new Iter(Array.isArray(value) ? 'list_reverseiterator' : value instanceof Range ? 'range_iterator' : 'reversed', items.values());
}

function sum(value: Value, attribute: Value = null, start: Value = 0): Value {
  const read = reader(attribute);
  if (asText(start) !== undefined) throw new Error("sum() can't sum strings [use ''.join(seq) instead]");
  let result = start;
  for (const item of iterate(value)) result = binary('+', result, read(item));
  return result;
}

function* batch(value: Value, size: Value, fill: Value = null): Generator<Value> {
  const count = wholeOf(size, 'batch');
  let part: Value[] = [];
  for (const item of iterate(value)) {
    if (part.length === count) {
      yield madeList(part.slice());
      part = [];
    }
    part.push(item);
  }
  if (part.length === 0) return;
  if (fill !== null && part.length < count) {
    spendItems(count - part.length);
    while (part.length < count) part.push(fill);
  }
  yield madeList(part);
}

function* slices(value: Value, slicesOf: Value, fill: Value = null): Generator<Value> {
  const items = listOf(value);
  const count = wholeOf(slicesOf, 'slice');
  if (count === 0) throw new Error('integer division or modulo by zero');
  const [each, extra] = [Math.floor(items.length / count), items.length % count];
  let at = 0;
  for (let i = 0; i < count; i++) {
    spend();
    const part = madeList(items.slice(at, at + each + (i < extra ? 1 : 0)));
    at += part.length;
    if (fill !== null && i >= extra) part.push(fill);
    yield part;
  }
}

function* pairs(value: Value): Generator<Value> {
  if (value instanceof Undefined) return;
  if (!(value instanceof Dict)) throw new Error('Can only get item pairs from a mapping.');
  for (const pair of value.pairs()) yield new Tuple(pair);
}

function* map({ positional: [value, ...rest], named }: Arguments): Generator<Value> {
  if (!truthy(value)) return;
  let run: (item: Value) => Value;
  const attribute = named.get('attribute');
  if (rest.length === 0 && attribute !== undefined) {
    for (const name of named.keys())
      if (name !== 'attribute' && name !== 'default') throw new Error(`Unexpected keyword argument '${name}'`);
    run = reader(attribute, named.get('default') ?? null);
  } else {
    const [name, ...args] = rest;
    if (name === undefined) throw new Error('map requires a filter argument');
    run = (item) => callFilter(str(name), { positional: [item, ...args], named });
  }
  for (const item of iterate(value)) yield run(item);
}

/** `select`, `reject` and the two that look at an attribute. */
function select(wanted: boolean, byAttribute: boolean) {
  return function* ({ positional: [value, ...rest], named }: Arguments): Generator<Value> {
    if (!truthy(value)) return;
    if (byAttribute && rest.length === 0) throw new Error('Missing parameter for attribute name');
    const read = byAttribute ? reader(rest[0]) : (item: Value) => item;
    const [name, ...args] = byAttribute ? rest.slice(1) : rest;
    for (const item of iterate(value)) {
      const subject = read(item);
      const passes = name === undefined ? truthy(subject) : callTest(str(name), { positional: [subject, ...args], named });
      if (passes === wanted) yield item;
    }
  };
}

const lazy =
  (run: (args: Arguments) => Generator<Value>): CollectionFilter =>
  (args) =>
    generator(run(args));

const lazyFilter = (name: string, parameters: readonly string[], run: (...values: Value[]) => Generator<Value>): CollectionFilter =>
  filter(name, parameters, (...values) => generator(run(...values)));

export const collectionFilters: Record<string, CollectionFilter> = {
  batch: lazyFilter('batch', ['value', 'linecount', 'fill_with?'], batch),
  dictsort: filter('dictsort', ['value', 'case_sensitive?', 'by?', 'reverse?'], dictSort),
  first: filter('first', ['value'], first),
  groupby: filter('groupby', ['value', 'attribute', 'default?', 'case_sensitive?'], groupBy),
  items: lazyFilter('items', ['value'], pairs),
  join: filter('join', ['value', 'd?', 'attribute?'], join),
  last: filter('last', ['value'], last),
  list: filter('list', ['value'], listOf),
  map: lazy(map),
  max: filter('max', ['value', 'case_sensitive?', 'attribute?'], extreme('>')),
  min: filter('min', ['value', 'case_sensitive?', 'attribute?'], extreme('<')),
  reject: lazy(select(false, false)),
  rejectattr: lazy(select(false, true)),
  reverse: filter('reverse', ['value'], reverse),
  select: lazy(select(true, false)),
  selectattr: lazy(select(true, true)),
  slice: lazyFilter('slice', ['value', 'slices', 'fill_with?'], slices),
  sort: filter('sort', ['value', 'reverse?', 'case_sensitive?', 'attribute?'], sort),
  sum: filter('sum', ['value', 'attribute?', 'start?'], sum),
  unique: lazyFilter('unique', ['value', 'case_sensitive?', 'attribute?'], unique),
};
