import { collectionFilters } from './collections.js';
import { percentFormat } from './format.js';
import { made, madeList, spendText } from './meter.js';
import { capitalize, centered, replace } from './methods.js';
import { double, Float, float, int, isFloat, parseFloatText, parseInteger, roundFloat } from './numbers.js';
import { bind, getAttribute, lengthOf, unary, wholeOf } from './operations.js';
import { type JsonOptions, jsonText, str } from './print.js';
import { type Test, tests } from './tests.js';
import { pointCount, pointsOf, sliceText, space, splitLines, strip } from './text.js';
import {
  type Arguments,
  asNumber,
  asSequence,
  asText,
  Dict,
  defined,
  Markup,
  PyObject,
  Tuple,
  truthy,
  typeName,
  Undefined,
  type Value,
} from './values.js';

/** Jinja's filters on single values; those on collections are in `collections.ts`. */
export type Filter = readonly [parameters: readonly string[], run: (...values: Value[]) => Value];

const html: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', "'": '&#39;', '"': '&#34;' };
const escapeHtml = (text: string) => made(text.replace(/[&<>'"]/g, (character) => html[character]));
const escaped = (value: Value) => (value instanceof Markup ? value : new Markup(escapeHtml(str(value))));

/** Refused by name: what they give cannot be rendered alike, or nobody needs them in a chat. */
const refused: Record<string, string> = {
  random: 'its result is random',
  pprint: 'Python’s pprint breaks lines by rules of its own; use tojson(indent=2)',
  urlize: 'links are of no use in a chat',
  wordwrap: 'Python’s textwrap breaks lines by rules of its own',
};

function indent(value: Value, width: Value = 4, first: Value = false, blank: Value = false): Value {
  const text = asText(defined(value));
  if (text === undefined) throw new Error(`can only indent a str, not ${typeName(value)}`);
  const step = asText(width) ?? ' '.repeat(Math.min(Math.max(0, wholeOf(width, 'indent')), 1e5));
  const lines = splitLines(`${text}\n`);
  spendText(lines.length * step.length);
  const rest = lines.slice(1).map((line) => (line !== '' || truthy(blank) ? step + line : line));
  return made((truthy(first) ? step : '') + [lines[0], ...rest].join('\n'));
}

function truncate(value: Value, length: Value = 255, killwords: Value = false, end: Value = '...', leeway: Value = 5): Value {
  const text = asText(value);
  const [size, mark] = [wholeOf(length, 'truncate'), str(end)];
  if (size < pointCount(mark)) throw new Error(`expected length >= ${pointCount(mark)}, got ${size}`);
  if ((lengthOf(value) ?? Number.POSITIVE_INFINITY) <= size + wholeOf(leeway ?? 5, 'truncate')) return value;
  if (text === undefined) throw new Error(`can only truncate a str, not ${typeName(value)}`);
  const cut = sliceText(text, 0, size - pointCount(mark));
  const word = cut.lastIndexOf(' ');
  return (truthy(killwords) || word < 0 ? cut : cut.slice(0, word)) + mark;
}

function toInt(value: Value, fallback: Value = 0, base: Value = 10): Value {
  const text = asText(defined(value));
  if (text !== undefined) {
    const whole = parseInteger(strip(text, true, true), wholeOf(base, 'int'));
    if (whole !== undefined) return whole;
    const number = parseFloatText(strip(text, true, true));
    return number === undefined || !Number.isFinite(number) ? fallback : int(BigInt(Math.trunc(number)));
  }
  const number = asNumber(value);
  if (number === undefined) return fallback;
  if (!isFloat(number)) return number;
  if (Number.isNaN(double(number))) return fallback;
  if (!Number.isFinite(double(number))) throw new Error('cannot convert float infinity to integer');
  return int(BigInt(Math.trunc(double(number))));
}

function toFloat(value: Value, fallback: Value = new Float(0)): Value {
  const text = asText(defined(value));
  const number = text === undefined ? asNumber(value) : parseFloatText(strip(text, true, true));
  if (number === undefined) return fallback;
  return text === undefined ? float(double(number)) : float(number as number);
}

function round(value: Value, precision: Value = 0, method: Value = 'common'): Value {
  const number = asNumber(defined(value));
  if (number === undefined) throw new Error(`type ${typeName(value)} doesn't define __round__ method`);
  const places = wholeOf(precision, 'round');
  if (method === 'common') return isFloat(number) ? float(roundFloat(double(number), places)) : roundInt(BigInt(number), places);
  if (method !== 'ceil' && method !== 'floor') throw new Error('method must be common, ceil or floor');
  // As Jinja computes it: the factor is an integer for places from 0 on.
  const factor = 10 ** places;
  return float(Math[method](double(number) * factor) / factor);
}

function roundInt(value: bigint, places: number): Value {
  if (places >= 0) return int(value);
  if (places < -4300) return 0;
  const unit = 10n ** BigInt(-places);
  const rest = ((value % unit) + unit) % unit;
  const low = value - rest;
  const up = rest * 2n > unit || (rest * 2n === unit && (low / unit) % 2n !== 0n);
  return int(up ? low + unit : low);
}

function toJson(value: Value, ascii: Value = false, indentation: Value = null, separators: Value = null, sorted: Value = false): Value {
  const step =
    asText(indentation) ?? (indentation === null ? undefined : ' '.repeat(Math.max(0, Math.min(wholeOf(indentation, 'tojson'), 1e4))));
  const given = asSequence(separators)?.map((part) => asText(part) ?? str(part));
  const options: JsonOptions = {
    ensureAscii: truthy(ascii),
    indent: step,
    separators: given ? [given[0], given[1]] : [step === undefined ? ', ' : ',', ': '],
    sortKeys: truthy(sorted),
  };
  return jsonText(value, options);
}

function title(value: Value): string {
  return made(
    made(str(value))
      .split(new RegExp(`([-${space}({\\[<]+)`))
      .map((part) => {
        const [first = '', ...rest] = pointsOf(part);
        return first.toUpperCase() + rest.join('').toLowerCase();
      })
      .join(''),
  );
}

function fileSize(value: Value, binary: Value = false): string {
  const bytes = double(asNumber(toFloat(value, null)) ?? Number.NaN);
  if (Number.isNaN(bytes)) throw new Error(`could not convert ${typeName(value)} to float`);
  const base = truthy(binary) ? 1024 : 1000;
  if (bytes === 1) return '1 Byte';
  if (bytes < base) return `${Math.trunc(bytes)} Bytes`;
  const units = truthy(binary)
    ? ['KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB', 'ZiB', 'YiB']
    : ['kB', 'MB', 'GB', 'TB', 'PB', 'EB', 'ZB', 'YB'];
  const power = units.findIndex((_, i) => bytes < base ** (i + 2));
  const at = power < 0 ? units.length - 1 : power;
  return `${percentFormat('%.1f', float((base * bytes) / base ** (at + 2)))} ${units[at]}`;
}

/** Percent-encoding of a text's UTF-8. */
function quoteUrl(value: Value, query: boolean): string {
  // Half a pair cannot be written in UTF-8.
  const text = made(str(value)).replace(/\p{Cs}/gu, '\ufffd');
  const encoded = encodeURIComponent(text).replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
  return made(query ? encoded.replaceAll('%20', '+') : encoded.replaceAll('%2F', '/'));
}

function urlEncode(value: Value): string {
  const pairs =
    value instanceof Dict
      ? value.pairs()
      : asText(value) === undefined
        ? asSequence(value)?.map((pair) => asSequence(pair) ?? [])
        : undefined;
  if (!pairs) return quoteUrl(value, false);
  return made(pairs.map(([key = '', entry = '']) => `${quoteUrl(key, true)}=${quoteUrl(entry, true)}`).join('&'));
}

function xmlAttributes(value: Value, space: Value = true): string {
  if (!(value instanceof Dict)) throw new Error(`'${typeName(value)}' object has no attribute 'items'`);
  const parts = value.pairs().flatMap(([key, entry]) => {
    if (entry === null || entry instanceof Undefined) return [];
    if (/[\s/>=]/.test(str(key))) throw new Error(`Invalid character in attribute name: ${str(key)}`);
    return [`${escapeHtml(str(key))}="${escaped(entry).text}"`];
  });
  return made((truthy(space) && parts.length > 0 ? ' ' : '') + parts.join(' '));
}

function stripTags(value: Value): string {
  let text = made(str(value));
  for (const [open, close] of [
    ['<!--', '-->'],
    ['<', '>'],
  ]) {
    let rest = '';
    let at = 0;
    for (let start = text.indexOf(open); start >= 0; start = text.indexOf(open, at)) {
      const end = text.indexOf(close, start);
      if (end < 0) break;
      rest += text.slice(at, start);
      at = end + close.length;
    }
    text = rest + text.slice(at);
  }
  const words = text.split(new RegExp(`[${space}]+`)).filter((word) => word !== '');
  const entities: Record<string, string> = { amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'", '#34': '"', nbsp: '\xa0' };
  return made(words.join(' ').replace(/&(amp|lt|gt|quot|#39|#34|nbsp);/g, (_, name) => entities[name]));
}

function attribute(object: Value, name: Value): Value {
  const found = object instanceof Dict ? undefined : getAttribute(object, str(name));
  if (found !== undefined) return found;
  // Unlike `object.name`, no key is looked up.
  return getAttribute(new Dict(), str(name));
}

const fallback: Filter = [
  ['value', 'default_value?', 'boolean?'],
  (value, instead = '', boolean = false) => (value instanceof Undefined || (truthy(boolean) && !truthy(value)) ? instead : value),
];
const length: Filter = [['value'], (value) => lengthOf(value) ?? (value instanceof PyObject ? sizeOfObject(value) : noLength(value))];

function sizeOfObject(object: PyObject): Value {
  return object.attribute('length') ?? noLength(object);
}

function noLength(value: Value): never {
  throw new Error(`object of type '${typeName(value)}' has no len()`);
}

const valueFilters: Record<string, Filter> = {
  abs: [['value'], (value) => (ordersBelowZero(value) ? unary('-', value) : unary('+', value))],
  attr: [['value', 'name'], attribute],
  capitalize: [['value'], (value) => capitalize(str(value))],
  center: [['value', 'width?'], (value, width = 80) => centered(str(value), width)],
  count: length,
  d: fallback,
  default: fallback,
  e: [['value'], escaped],
  escape: [['value'], escaped],
  filesizeformat: [['value', 'binary?'], fileSize],
  float: [['value', 'default?'], toFloat],
  forceescape: [['value'], (value) => new Markup(escapeHtml(str(value)))],
  indent: [['value', 'width?', 'first?', 'blank?'], indent],
  int: [['value', 'default?', 'base?'], toInt],
  length,
  lower: [['value'], (value) => made(str(value).toLowerCase())],
  replace: [
    ['value', 'old', 'new', 'count?'],
    (value, old, replacement, most = null) =>
      replace(str(value), str(old), str(replacement), most === null ? -1 : wholeOf(most, 'replace')),
  ],
  round: [['value', 'precision?', 'method?'], round],
  safe: [['value'], (value) => new Markup(str(value))],
  string: [['value'], (value) => str(value)],
  striptags: [['value'], stripTags],
  title: [['value'], title],
  tojson: [['value', 'ensure_ascii?', 'indent?', 'separators?', 'sort_keys?'], toJson],
  trim: [['value', 'chars?'], (value, set = null) => strip(str(value), true, true, set === null ? undefined : str(set))],
  truncate: [['value', 'length?', 'killwords?', 'end?', 'leeway?'], truncate],
  upper: [['value'], (value) => made(str(value).toUpperCase())],
  urlencode: [['value'], urlEncode],
  wordcount: [['value'], (value) => (made(str(value)).match(/[\p{L}\p{N}_]+/gu) ?? []).length],
  xmlattr: [['value', 'autospace?'], xmlAttributes],
};

function ordersBelowZero(value: Value): boolean {
  const number = asNumber(value);
  if (number === undefined) throw new Error(`bad operand type for abs(): '${typeName(value)}'`);
  return double(number) < 0 || Object.is(double(number), -0);
}

/** Filters that give a marked text for a marked text; the others give a plain one. */
const keepMarks = ['capitalize', 'center', 'indent', 'lower', 'string', 'trim', 'upper'];

/** `value | name(…)`; `value` is the first of the arguments. */
export function callFilter(name: string, args: Arguments): Value {
  if (name === 'format') return format(args);
  const filter = Object.hasOwn(valueFilters, name) ? valueFilters[name] : undefined;
  if (!filter) {
    if (Object.hasOwn(collectionFilters, name)) return collectionFilters[name](args);
    if (Object.hasOwn(refused, name)) throw new Error(`the filter ${name} is not supported: ${refused[name]}`);
    throw new Error(`No filter named '${name}'`);
  }
  const result = filter[1](...bind(name, filter[0], args));
  return args.positional[0] instanceof Markup && keepMarks.includes(name) ? new Markup(str(result)) : result;
}

function format({ positional: [value, ...rest], named }: Arguments): Value {
  if (value instanceof Markup) throw new Error('the filter format of a text that safe or escape made is not supported');
  if (rest.length > 0 && named.size > 0) throw new Error("can't handle positional and keyword arguments at the same time");
  return percentFormat(str(value), named.size > 0 ? Dict.of(named) : new Tuple(madeList(rest)));
}

export function hasFilter(name: Value): boolean {
  const text = asText(name) ?? '';
  return text === 'format' || [valueFilters, collectionFilters, refused].some((filters) => Object.hasOwn(filters, text));
}

/** `value is name(…)`; `value` is the first of the arguments. */
export function callTest(name: string, { positional: [value, ...rest], named }: Arguments): boolean {
  if (name === 'filter') return hasFilter(value);
  if (name === 'test') return Object.hasOwn(tests, asText(value) ?? '') || value === 'filter' || value === 'test';
  const test: Test | undefined = Object.hasOwn(tests, name) ? tests[name] : undefined;
  if (!test) throw new Error(`No test named '${name}'`);
  const [argument] = bind(name, test[0], { positional: rest, named });
  return test[1](value, argument);
}
