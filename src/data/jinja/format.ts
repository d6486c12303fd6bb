import { made } from './meter.js';
import { double, fixed, float, int, isFloat, numberText, type PyNumber, scientific } from './numbers.js';
import { getAttribute, getItem } from './operations.js';
import { repr, str } from './print.js';
import { pointCount, quoteText, sliceText } from './text.js';
import { type Arguments, asNumber, asText, Dict, defined, isInt, orElse, Range, Tuple, typeName, Undefined, type Value } from './values.js';

/** `text % values`, `text.format(…)` and what both make of numbers. */

const longest = 1e5;

/** A number of a format, such as a width. */
function size(text: string): number {
  const value = Number(text);
  if (value > longest) throw new Error(`a width or precision of ${text} is too large`);
  return value;
}

interface NumberStyle {
  /** One of d b o x X e E f F g G %, or '' for a float without one. */
  type: string;
  sign: string;
  alternate: boolean;
  grouping: string;
  precision?: number;
}

/** Sign and digits of a number. */
function formatNumber(value: PyNumber, style: NumberStyle): { sign: string; digits: string } {
  const x = double(value);
  const negative = x < 0 || Object.is(x, -0);
  const sign = negative ? '-' : style.sign === '+' || style.sign === ' ' ? style.sign : '';
  if ('dboxX'.includes(style.type) && style.type !== '') return { sign, digits: formatInt(value, style) };
  return { sign, digits: formatFloat(Math.abs(x), style) };
}

function formatInt(value: PyNumber, { type, alternate, grouping }: NumberStyle): string {
  if (isFloat(value)) throw new Error(`Unknown format code '${type}' for object of type 'float'`);
  const base = { b: 2, o: 8, x: 16, X: 16 }[type] ?? 10;
  const absolute = BigInt(value) < 0n ? -BigInt(value) : BigInt(value);
  const digits = group(absolute.toString(base), grouping, base === 10 ? 3 : 4);
  const text = (alternate && base !== 10 ? `0${type.toLowerCase()}` : '') + digits;
  return type === 'X' ? text.toUpperCase() : text;
}

function group(digits: string, separator: string, width: number): string {
  return separator === '' ? digits : digits.replace(width === 3 ? /\B(?=(\d{3})+$)/g : /\B(?=([\da-f]{4})+$)/g, separator);
}

function formatFloat(x: number, { type, alternate, grouping, precision }: NumberStyle): string {
  const upper = type === 'E' || type === 'F' || type === 'G';
  const finish = (text: string) => {
    const [whole, ...fraction] = text.split('.');
    const grouped = [/^\d+$/.test(whole) ? group(whole, grouping, 3) : whole, ...fraction].join('.');
    return upper ? grouped.toUpperCase() : grouped;
  };
  if (!Number.isFinite(x)) return finish(Number.isNaN(x) ? 'nan' : 'inf') + (type === '%' ? '%' : '');
  const exponentText = (exponent: number) => `e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;
  const digitsOf = (digits: string) => digits[0] + (digits.length > 1 ? `.${digits.slice(1)}` : alternate ? '.' : '');
  switch (type.toLowerCase()) {
    case 'f':
      return finish(fixed(x, precision ?? 6) + (alternate && precision === 0 ? '.' : ''));
    case '%':
      return finish(`${fixed(x * 100, precision ?? 6)}%`);
    case 'e': {
      const { digits, exponent } = scientific(x, precision ?? 6);
      return finish(digitsOf(digits) + exponentText(exponent));
    }
    case '':
      if (precision === undefined) return finish(numberText(float(x)));
  }
  const significant = Math.max(precision ?? 6, 1);
  const { digits, exponent } = scientific(x, significant - 1);
  const trimmed = alternate ? digits : digits.replace(/0+$/, '') || '0';
  const small = type === '' ? exponent < significant - 1 || exponent === 0 : exponent < significant;
  if (exponent >= -4 && small) {
    const text = fixed(x, significant - 1 - exponent);
    const bare = alternate || !text.includes('.') ? text : text.replace(/\.?0+$/, '');
    return finish(type === '' && !bare.includes('.') ? `${bare}.0` : bare);
  }
  return finish(digitsOf(trimmed) + exponentText(exponent));
}

function pad(text: string, width: number, align: string, fill: string): string {
  const missing = width - pointCount(text);
  if (missing <= 0) return text;
  const left = align === '>' ? missing : align === '^' ? Math.floor(missing / 2) : 0;
  return fill.repeat(left) + text + fill.repeat(missing - left);
}

// text % values

const directive = /%(?:\(([^)]*)\))?([-+ #0]*)(\d+|\*)?(?:\.(\d+|\*)?)?[hlL]?(.)?/gsu;

/** `text % values`. */
export function percentFormat(text: string, values: Value): string {
  const items = values instanceof Tuple ? values.items : [values];
  let next = 0;
  const take = (): Value => {
    if (next >= items.length) throw new Error('not enough arguments for format string');
    return items[next++];
  };
  const result = text.replace(
    directive,
    (whole, key: string | undefined, flags: string, width: string | undefined, precision: string | undefined, type = '') => {
      if (type === '%') return '%';
      const dotted = /\.[^.]*$/.test(whole.slice(0, -1).replace(/^%\([^)]*\)/, '%'));
      const number = (given: string | undefined) => (given === '*' ? Number(take()) : size(given ?? '0'));
      const wide = width === undefined ? 0 : number(width);
      const digits = dotted ? number(precision) : undefined;
      if (key !== undefined && !(values instanceof Dict)) throw new Error('format requires a mapping');
      const value = key === undefined ? take() : orElse((values as Dict).get(key), () => missingKey(key));
      return percentPart(value, type, flags, wide, digits);
    },
  );
  if (next < items.length && !hasItems(values)) {
    throw new Error('not all arguments converted during string formatting');
  }
  return made(result);
}

/** What Python takes for a mapping here, which need not be used up. */
function hasItems(values: Value): boolean {
  return Array.isArray(values) || values instanceof Dict || values instanceof Range || values instanceof Undefined;
}

function missingKey(key: string): never {
  throw new Error(`KeyError: '${key}'`);
}

function percentPart(value: Value, type: string, flags: string, width: number, precision: number | undefined): string {
  const left = flags.includes('-');
  const fill = (text: string) => pad(text, width, left ? '<' : '>', ' ');
  if (type === 's' || type === 'r' || type === 'a') {
    const text = type === 's' ? str(value) : type === 'r' ? repr(value) : quoteAscii(value);
    return fill(precision === undefined ? text : sliceText(text, 0, precision));
  }
  if (type === 'c') return fill(isInt(value) ? String.fromCodePoint(Number(value)) : (asText(value) ?? ''));
  if (type === '' || !'diuoxXeEfFgG'.includes(type)) throw new Error(`unsupported format character '${type}'`);
  const number = asNumber(defined(value));
  if (number === undefined) throw new Error(`%${type} format: a number is required, not ${typeName(value)}`);
  const whole = 'diu'.includes(type) && isFloat(number) ? int(BigInt(Math.trunc(double(number)))) : number;
  const style = {
    type: 'diu'.includes(type) ? 'd' : type,
    sign: flags.includes('+') ? '+' : flags.includes(' ') ? ' ' : '',
    alternate: flags.includes('#'),
    grouping: '',
    precision,
  };
  const { sign, digits } = formatNumber(whole, style);
  const exact = 'diuoxX'.includes(type) && precision !== undefined ? digits.padStart(precision, '0') : digits;
  if (flags.includes('0') && !left) return sign + exact.padStart(width - sign.length, '0');
  return fill(sign + exact);
}

function quoteAscii(value: Value): string {
  const text = asText(value);
  return text === undefined ? repr(value) : quoteText(text, true);
}

// text.format(…)

/** `text.format(…)`, with attributes and items as templates read them. */
export function braceFormat(text: string, args: Arguments): string {
  const counter = { next: 0 };
  return made(formatFields(text, args, counter, 2));
}

function formatFields(text: string, args: Arguments, counter: { next: number }, depth: number): string {
  let result = '';
  for (let at = 0; at < text.length; ) {
    const character = text[at];
    if (character !== '{' && character !== '}') {
      const next = text.slice(at).search(/[{}]/);
      const end = next < 0 ? text.length : at + next;
      result += made(text.slice(at, end));
      at = end;
    } else if (text[at + 1] === character) {
      result += character;
      at += 2;
    } else if (character === '}') throw new Error("Single '}' encountered in format string");
    else {
      if (depth === 0) throw new Error('Max string recursion exceeded');
      const end = fieldEnd(text, at);
      result += formatField(text.slice(at + 1, end), args, counter, depth);
      at = end + 1;
    }
  }
  return result;
}

function fieldEnd(text: string, start: number): number {
  let open = 0;
  for (let at = start; at < text.length; at++) {
    if (text[at] === '{') open++;
    else if (text[at] === '}' && --open === 0) return at;
  }
  throw new Error("expected '}' before end of string");
}

function formatField(field: string, args: Arguments, counter: { next: number }, depth: number): string {
  const [, path, conversion, spec = ''] = /^([^!:]*)(?:!(.))?(?::(.*))?$/s.exec(field) ?? [];
  if (path === undefined) throw new Error(`the field {${field}} of a format is not readable`);
  const [, first, rest] = /^([^.[]*)(.*)$/s.exec(path) ?? [];
  let value: Value | undefined;
  if (first === '' || /^\d+$/.test(first)) value = args.positional[first === '' ? counter.next++ : Number(first)];
  else value = args.named.get(first);
  if (value === undefined) throw new Error(`format() has no value for {${first}}`);
  for (const [, name, index] of rest.matchAll(/\.([^.[]+)|\[([^\]]+)\]/g)) {
    value = name === undefined ? getItem(value, /^\d+$/.test(index) ? Number(index) : index) : getAttribute(value, name);
  }
  const inner = formatFields(spec, args, counter, depth - 1);
  if (conversion === 's') return formatSpec(str(value), inner);
  if (conversion === 'r') return formatSpec(repr(value), inner);
  if (conversion === 'a') return formatSpec(quoteAscii(value), inner);
  if (conversion !== undefined) throw new Error(`Unknown conversion specifier '${conversion}'`);
  return formatSpec(value, inner);
}

const specPattern = /^(?:(.)?([<>=^]))?([-+ ])?(z)?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([a-zA-Z%])?$/su;

/** `format(value, spec)`. */
export function formatSpec(value: Value, spec: string): string {
  if (spec === '') return str(value);
  const match = specPattern.exec(spec);
  if (!match) throw new Error(`Invalid format specifier '${spec}'`);
  const [, fill, align, sign = '', , alternate, zero, width = '0', grouping = '', precisionText, type = ''] = match;
  const precision = precisionText === undefined ? undefined : size(precisionText);
  const text = asText(value);
  if (text !== undefined) {
    if ((type !== '' && type !== 's') || sign || alternate || grouping || align === '=') throw new Error(`'${spec}' is no format of a str`);
    const cut = precision === undefined ? text : sliceText(text, 0, precision);
    return pad(cut, size(width), align ?? '<', fill ?? (zero ? '0' : ' '));
  }
  const number = asNumber(value);
  if (number === undefined) throw new Error(`unsupported format string passed to ${typeName(value)}.__format__`);
  if (type === 'n' || type === 'c' || (type !== '' && !'dboxXeEfFgG%'.includes(type)))
    throw new Error(`the format code '${type}' is not supported`);
  const chosen = type === '' && !isFloat(number) ? (precision === undefined ? 'd' : '') : type;
  if (typeof value === 'boolean' && type === '') return pad(str(value), size(width), align ?? '<', fill ?? ' ');
  const parts = formatNumber(number, { type: chosen, sign, alternate: alternate !== undefined, grouping, precision });
  if (align === '=' || (zero && !align)) {
    const filler = fill ?? (zero ? '0' : ' ');
    if (filler === '0' && grouping) throw new Error('zeros with groups of digits are not supported');
    return parts.sign + pad(parts.digits, size(width) - parts.sign.length, '>', filler);
  }
  return pad(parts.sign + parts.digits, size(width), align ?? '>', fill ?? (zero ? '0' : ' '));
}
