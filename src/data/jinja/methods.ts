import { braceFormat } from './format.js';
import { made, madeList, spend, spendItems, spendSearch, spendText } from './meter.js';
import { double, Float, int, isFloat } from './numbers.js';
import { bind, iterate, listOf, wholeOf } from './operations.js';
import { isSpace, pointCount, pointsOf, sliceText, splitLines, strip, titleCase } from './text.js';
import {
  type Arguments,
  asText,
  Dict,
  equal,
  Func,
  isInt,
  Markup,
  orElse,
  PyObject,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

/** The attributes of Python's own types that a template may use. */

type Method<T> = readonly [parameters: readonly string[], run: (self: T, ...args: Value[]) => Value];

/** An argument that must be a text. */
function textOf(value: Value): string {
  const text = asText(value);
  if (text === undefined) throw new Error(`must be str, not ${typeName(value)}`);
  return text;
}

const optionalText = (value: Value | undefined) => (value === undefined || value === null ? undefined : textOf(value));

/** Whether all of a text is of a class of characters, and something is. */
const every = (pattern: RegExp): Method<string> => [[], (text) => pattern.test(made(text))];

function find(text: string, part: Value, start: Value, end: Value, last: boolean): number {
  const length = pointCount(text);
  const bound = (value: Value | undefined, fallback: number) => {
    if (value === undefined || value === null) return fallback;
    const whole = wholeOf(value, 'find');
    return Math.min(whole < 0 ? Math.max(0, whole + length) : whole, length + 1);
  };
  const [from, to] = [bound(start, 0), Math.min(bound(end, length), length)];
  if (from > to) return -1;
  const range = sliceText(text, from, to);
  spendSearch(range, textOf(part));
  const at = last ? range.lastIndexOf(textOf(part)) : range.indexOf(textOf(part));
  return at < 0 ? -1 : from + pointCount(range.slice(0, at));
}

function found(index: number): number {
  if (index < 0) throw new Error('substring not found');
  return index;
}

function count(text: string, part: string): number {
  if (part === '') return pointCount(text) + 1;
  spendSearch(text, part);
  let result = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) result++;
  return result;
}

function split(text: string, separator: Value | undefined, limit: Value | undefined, fromRight: boolean): Value {
  spendText(text.length);
  const most = limit === undefined ? -1 : wholeOf(limit, 'split');
  const mark = optionalText(separator);
  if (mark === '') throw new Error('empty separator');
  if (mark === undefined) return madeList(splitSpaces(text, most, fromRight));
  spendSearch(text, mark);
  const parts = text.split(mark);
  if (most < 0 || parts.length <= most + 1) return madeList(parts);
  const kept = fromRight ? [parts.slice(0, -most || undefined).join(mark), ...parts.slice(most === 0 ? parts.length : -most)] : undefined;
  return madeList(kept ?? [...parts.slice(0, most), parts.slice(most).join(mark)]);
}

function splitSpaces(text: string, most: number, fromRight: boolean): string[] {
  const words: string[] = [];
  const step = fromRight ? -1 : 1;
  let at = fromRight ? text.length - 1 : 0;
  const inside = () => at >= 0 && at < text.length;
  for (;;) {
    while (inside() && isSpace(text[at])) at += step;
    if (!inside()) break;
    const start = at;
    if (words.length === most) at = fromRight ? -1 : text.length;
    else while (inside() && !isSpace(text[at])) at += step;
    const word = fromRight ? text.slice(at + 1, start + 1) : text.slice(start, at);
    words.push(word);
  }
  return fromRight ? words.reverse() : words;
}

function partition(text: string, mark: string, fromRight: boolean): Value {
  if (mark === '') throw new Error('empty separator');
  spendSearch(text, mark);
  const at = fromRight ? text.lastIndexOf(mark) : text.indexOf(mark);
  if (at < 0) return new Tuple(fromRight ? ['', '', text] : [text, '', '']);
  return new Tuple([made(text.slice(0, at)), mark, made(text.slice(at + mark.length))]);
}

/** `text.replace(old, new, count)`. */
export function replace(text: string, old: string, replacement: string, most = -1): string {
  spendSearch(text, old);
  if (most < 0) {
    const times = count(text, old);
    if (text.length + times * replacement.length > 1024) spendText(text.length + times * replacement.length);
    if (old !== '') return made(text.replaceAll(old, () => replacement));
  }
  const pieces = old === '' ? ['', ...pointsOf(text), ''] : text.split(old);
  const limit = most < 0 ? pieces.length - 1 : Math.min(most, pieces.length - 1);
  if (old === '') return made(pieces.map((piece, i) => piece + (i < limit ? replacement : '')).join(''));
  return made([...pieces.slice(0, limit), pieces.slice(limit).join(old)].join(replacement));
}

export function capitalize(text: string): string {
  const [first = '', ...rest] = pointsOf(text);
  return made(titleCase(first) + rest.join('').toLowerCase());
}

function center(text: string, width: Value, fill: Value | undefined, align: 'left' | 'right' | 'center'): string {
  const missing = wholeOf(width, align) - pointCount(text);
  const filler = fill === undefined ? ' ' : textOf(fill);
  if (pointCount(filler) !== 1) throw new Error('The fill character must be exactly one character long');
  if (missing <= 0) return text;
  spendText(missing);
  // Python puts the odd space to the left where the width is odd.
  const left = align === 'left' ? 0 : align === 'right' ? missing : Math.floor(missing / 2) + (missing & Number(wholeOf(width, align)) & 1);
  return made(filler.repeat(left) + text + filler.repeat(missing - left));
}

export const centered = (text: string, width: Value): string => center(text, width, undefined, 'center');

function affix(starts: boolean): Method<string> {
  return [
    ['prefix', 'start?', 'end?'],
    (text, given, start, end) => {
      const from = start === undefined && end === undefined ? text : slice(text, start, end);
      if (from === undefined) return false;
      const choices = given instanceof Tuple ? given.items : [given];
      return choices.some((choice) => {
        const part = made(textOf(choice));
        return starts ? from.startsWith(part) : from.endsWith(part);
      });
    },
  ];
}

function slice(text: string, start: Value | undefined, end: Value | undefined): string | undefined {
  const length = pointCount(text);
  const bound = (value: Value | undefined, fallback: number) => {
    const whole = value === undefined || value === null ? fallback : wholeOf(value, 'startswith');
    return whole < 0 ? Math.max(0, whole + length) : whole;
  };
  const [from, to] = [bound(start, 0), Math.min(bound(end, length), length)];
  return from > to ? undefined : sliceText(text, from, to);
}

/** `text.join(items)`. */
function join(text: string, items: Value): string {
  const parts = listOf(items).map((item, i) => {
    const part = asText(item);
    if (part === undefined) throw new Error(`sequence item ${i}: expected str instance, ${typeName(item)} found`);
    return part;
  });
  spendText(parts.length * text.length);
  return made(parts.join(text));
}

function titled(text: string): string {
  let inWord = false;
  const result = pointsOf(text).map((character) => {
    const next = inWord ? character.toLowerCase() : titleCase(character);
    inWord = /[\p{Lowercase}\p{Uppercase}\p{Lt}]/u.test(character);
    return next;
  });
  return made(result.join(''));
}

function swapCase(text: string): string {
  return made(
    pointsOf(text)
      .map((character) => (character === character.toUpperCase() ? character.toLowerCase() : character.toUpperCase()))
      .join(''),
  );
}

function expandTabs(text: string, size: number): string {
  let column = 0;
  const parts = pointsOf(text).map((character) => {
    if (character === '\t') {
      const spaces = size > 0 ? size - (column % size) : 0;
      column += spaces;
      spendText(spaces);
      return ' '.repeat(spaces);
    }
    column = character === '\n' || character === '\r' ? 0 : column + 1;
    return character;
  });
  return made(parts.join(''));
}

const cased = /[\p{Lowercase}\p{Uppercase}\p{Lt}]/u;
const digit = '\\p{Nd}²³¹⁰⁴-⁹₀-₉①-⑨⑴-⑼⒈-⒐⓪⓵-⓽⓿❶-❾➀-➈➊-➒';

const textMethods: Record<string, Method<string>> = {
  capitalize: [[], capitalize],
  casefold: [[], (text) => made(text.replaceAll('ß', 'ss').replaceAll('ẞ', 'ss').toLowerCase())],
  center: [['width', 'fillchar?'], (text, width, fill) => center(text, width, fill, 'center')],
  count: [
    ['sub', 'start?', 'end?'],
    (text, part, start, end) => {
      const range = slice(made(text), start, end);
      return range === undefined ? 0 : count(range, textOf(part));
    },
  ],
  endswith: affix(false),
  expandtabs: [['tabsize?'], (text, size = 8) => expandTabs(text, wholeOf(size, 'expandtabs'))],
  find: [['sub', 'start?', 'end?'], (text, part, start, end) => find(text, part, start, end, false)],
  index: [['sub', 'start?', 'end?'], (text, part, start, end) => found(find(text, part, start, end, false))],
  isalnum: every(new RegExp(`^[\\p{L}\\p{N}${digit}]+$`, 'u')),
  isalpha: every(/^\p{L}+$/u),
  isascii: [[], (text) => !/[^\0-\x7f]/.test(made(text))],
  isdecimal: every(/^\p{Nd}+$/u),
  isdigit: every(new RegExp(`^[${digit}]+$`, 'u')),
  isidentifier: every(/^[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}]*$/u),
  islower: [[], (text) => isLower(text)],
  isnumeric: every(/^[\p{N}〇一二三四五六七八九十百千万億兆零壹貳參肆伍陸柒捌玖拾]+$/u),
  isprintable: [[], (text) => !/(?! )[\p{C}\p{Z}]/u.test(made(text))],
  isspace: [[], (text) => text !== '' && pointsOf(text).every(isSpace)],
  istitle: [[], (text) => cased.test(text) && titled(text) === text],
  isupper: [[], (text) => isUpper(text)],
  join: [['iterable'], join],
  ljust: [['width', 'fillchar?'], (text, width, fill) => center(text, width, fill, 'left')],
  lower: [[], (text) => made(text.toLowerCase())],
  lstrip: [['chars?'], (text, set) => strip(text, true, false, optionalText(set))],
  partition: [['sep'], (text, mark) => partition(text, textOf(mark), false)],
  removeprefix: [['prefix'], (text, prefix) => (text.startsWith(textOf(prefix)) ? made(text.slice(textOf(prefix).length)) : text)],
  removesuffix: [
    ['suffix'],
    (text, suffix) => (textOf(suffix) !== '' && text.endsWith(textOf(suffix)) ? made(text.slice(0, -textOf(suffix).length)) : text),
  ],
  replace: [
    ['old', 'new', 'count?'],
    (text, old, replacement, most = -1) => replace(text, textOf(old), textOf(replacement), wholeOf(most, 'replace')),
  ],
  rfind: [['sub', 'start?', 'end?'], (text, part, start, end) => find(text, part, start, end, true)],
  rindex: [['sub', 'start?', 'end?'], (text, part, start, end) => found(find(text, part, start, end, true))],
  rjust: [['width', 'fillchar?'], (text, width, fill) => center(text, width, fill, 'right')],
  rpartition: [['sep'], (text, mark) => partition(text, textOf(mark), true)],
  rsplit: [['sep?', 'maxsplit?'], (text, mark, most) => split(text, mark, most, true)],
  rstrip: [['chars?'], (text, set) => strip(text, false, true, optionalText(set))],
  split: [['sep?', 'maxsplit?'], (text, mark, most) => split(text, mark, most, false)],
  splitlines: [['keepends?'], (text, keep = false) => madeList(splitLines(text, keep === true || (isInt(keep) && keep !== 0)))],
  startswith: affix(true),
  strip: [['chars?'], (text, set) => strip(text, true, true, optionalText(set))],
  swapcase: [[], swapCase],
  title: [[], titled],
  upper: [[], (text) => made(text.toUpperCase())],
  zfill: [
    ['width'],
    (text, width) => {
      const sign = /^[+-]/.exec(text)?.[0] ?? '';
      return sign + center(text.slice(sign.length), int(wholeOf(width, 'zfill') - sign.length), '0', 'right');
    },
  ],
};

export function isLower(text: string): boolean {
  return cased.test(made(text)) && text === text.toLowerCase();
}

export function isUpper(text: string): boolean {
  return cased.test(made(text)) && text === text.toUpperCase();
}

function indexIn(items: readonly Value[], item: Value, start: Value | undefined, end: Value | undefined): number {
  const bound = (value: Value | undefined, fallback: number) => {
    const whole = value === undefined ? fallback : wholeOf(value, 'index');
    return whole < 0 ? Math.max(0, whole + items.length) : whole;
  };
  const to = Math.min(bound(end, items.length), items.length);
  for (let i = bound(start, 0); i < to; i++) if (equal(items[i], item)) return i;
  throw new Error('the item is not in the list');
}

const sequenceMethods: Record<string, Method<readonly Value[]>> = {
  count: [['value'], (items, value) => items.filter((item) => equal(item, value)).length],
  index: [['value', 'start?', 'stop?'], indexIn],
};
const listMethods: Record<string, Method<readonly Value[]>> = { ...sequenceMethods, copy: [[], (items) => madeList([...items])] };

const dictMethods: Record<string, Method<Dict>> = {
  copy: [[], (dict) => dict.copy()],
  fromkeys: [['iterable', 'value?'], (_, keys, value = null) => fromKeys(keys, value)],
  get: [['key', 'default?'], (dict, key, fallback = null) => orElse(dict.get(key), () => fallback)],
  items: [[], (dict) => new View(dict, 'items')],
  keys: [[], (dict) => new View(dict, 'keys')],
  values: [[], (dict) => new View(dict, 'values')],
};

export function fromKeys(keys: Value, value: Value): Dict {
  const dict = new Dict();
  for (const key of iterate(keys)) {
    spendItems(1);
    dict.set(key, value);
  }
  return dict;
}

/** What would change a value, which the sandbox does not let a template do. */
const changing = {
  list: ['append', 'clear', 'pop', 'reverse', 'insert', 'sort', 'extend', 'remove'],
  dict: ['clear', 'pop', 'popitem', 'setdefault', 'update'],
};

/** Attributes of Python's types that are not here: refused by name, since `is defined` would be true in Python. */
const absent: Record<string, string> = {
  str: 'encode format_map maketrans translate',
  int: 'as_integer_ratio bit_count from_bytes to_bytes',
  float: 'as_integer_ratio fromhex hex',
  dict_keys: 'isdisjoint mapping',
  dict_values: 'mapping',
  dict_items: 'isdisjoint mapping',
  generator: 'close send throw gi_frame gi_code gi_running gi_yieldfrom',
};

function method<T>(self: T, name: string, [parameters, run]: Method<T>): Func {
  return new Func(name, (args: Arguments) => run(self, ...bind(name, parameters, args)), 'builtin_function_or_method');
}

/** `object.name` of Python, bound where it is a method; undefined of JavaScript where the type has no such attribute. */
export function attributeOf(object: Value, name: string): Value | undefined {
  spend();
  if (object instanceof PyObject) return object.attribute(name);
  const type = typeName(object);
  if (object instanceof Markup && (Object.hasOwn(textMethods, name) || name === 'format')) {
    throw new Error(`the method ${name} of a text that safe or escape made is not supported: Python escapes its arguments`);
  }
  if (typeof object === 'string') {
    if (name === 'format') return new Func(name, (args) => braceFormat(object, args), 'builtin_function_or_method');
    if (Object.hasOwn(textMethods, name)) return method(object, name, textMethods[name]);
  } else if (Array.isArray(object)) {
    if (changing.list.includes(name)) return unsafe(type, name);
    if (Object.hasOwn(listMethods, name)) return method<readonly Value[]>(object, name, listMethods[name]);
  } else if (object instanceof Tuple) {
    if (object.names.includes(name)) return object.items[object.names.indexOf(name)];
    if (Object.hasOwn(sequenceMethods, name)) return method(object.items, name, sequenceMethods[name]);
  } else if (object instanceof Dict) {
    if (changing.dict.includes(name)) return unsafe(type, name);
    if (Object.hasOwn(dictMethods, name)) return method(object, name, dictMethods[name]);
  } else if (object instanceof Range) {
    if (name === 'start' || name === 'stop' || name === 'step') return object[name];
    if (Object.hasOwn(sequenceMethods, name)) return method<readonly Value[]>(listOf(object), name, sequenceMethods[name]);
  } else {
    const found = numberAttribute(object, name);
    if (found !== undefined) return found;
  }
  if (/^__\w+__$/.test(name)) return unsafe(type, name);
  if (absent[type]?.split(' ').includes(name)) throw new Error(`the attribute ${name} of a ${type} is not supported`);
  return undefined;
}

function unsafe(type: string, name: string): Undefined {
  return new Undefined(`access to attribute '${name}' of '${type}' object is unsafe.`);
}

function numberAttribute(object: Value, name: string): Value | undefined {
  if (isFloat(object)) {
    if (name === 'is_integer') return method(object, name, [[], (self) => Number.isInteger(double(self))]);
  } else if (isInt(object) || typeof object === 'boolean') {
    const whole = typeof object === 'boolean' ? Number(object) : object;
    if (name === 'numerator') return whole;
    if (name === 'denominator') return 1;
    const bits = () => BigInt(whole).toString(2).replace('-', '').replace(/^0$/, '').length;
    if (name === 'bit_length') return method(object, name, [[], bits]);
  } else return undefined;
  if (name === 'real') return typeof object === 'boolean' ? Number(object) : object;
  if (name === 'imag') return isFloat(object) ? new Float(0) : 0;
  if (name === 'conjugate') return method(object, name, [[], (self) => (typeof self === 'boolean' ? Number(self) : self)]);
  return undefined;
}
