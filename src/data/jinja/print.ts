import { JsonNumber, type JsonValue, orderedKeys } from '../../util/json.js';
import { made, madeList, spend } from './meter.js';
import { Float, float, int, numberText } from './numbers.js';
import { quoteText } from './text.js';
import {
  asNumber,
  asSequence,
  asText,
  Dict,
  Iter,
  ordered,
  PyObject,
  Range,
  Slice,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

/** Values to text, as `str`, `repr` and `json.dumps` write them, and JSON to values. */

/** `str(value)`: what `{{ value }}` prints. */
export function str(value: Value): string {
  if (value instanceof Undefined) return '';
  return asText(value) ?? repr(value);
}

/** `repr(value)`. */
export function repr(value: Value): string {
  spend();
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'string') return quoteText(value);
  if (typeof value === 'number' || typeof value === 'bigint' || value instanceof Float) return numberText(value);
  if (Array.isArray(value)) return made(`[${value.map(repr).join(', ')}]`);
  const items = asSequence(value);
  if (items) return made(items.length === 1 ? `(${repr(items[0])},)` : `(${items.map(repr).join(', ')})`);
  if (value instanceof Dict) {
    const pairs = value.pairs().map(([key, entry]) => `${repr(key)}: ${repr(entry)}`);
    return made(`{${pairs.join(', ')}}`);
  }
  if (value instanceof View) return made(`dict_${value.kind}(${repr(value.items())})`);
  if (value instanceof Range) return `range(${value.start}, ${value.stop}${value.step === 1 ? '' : `, ${value.step}`})`;
  if (value instanceof Undefined) return 'Undefined';
  if (value instanceof Slice) return `slice(${repr(value.start)}, ${repr(value.stop)}, ${repr(value.step)})`;
  if (value instanceof PyObject) return value.text();
  if (value instanceof Iter)
    throw new Error(`printing a ${value.type} is not supported: Python writes where it lies in memory; use the filter list before`);
  return made(`Markup(${quoteText(asText(value) ?? '')})`);
}

export interface JsonOptions {
  ensureAscii: boolean;
  /** What a level is indented by; undefined: all in one line. */
  indent?: string;
  separators: readonly [item: string, key: string];
  sortKeys: boolean;
}

const jsonEscapes: Record<string, string> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\b': '\\b', '\f': '\\f', '\\': '\\\\', '"': '\\"' };

/** `json.dumps(value, …)`. */
export function jsonText(value: Value, options: JsonOptions, newline = '\n'): string {
  spend();
  const text = asText(value);
  if (text !== undefined) return jsonString(text, options.ensureAscii);
  if (value === null) return 'null';
  if (typeof value === 'boolean') return String(value);
  const number = asNumber(value);
  if (number !== undefined) return jsonNumber(numberText(number));
  const items = asSequence(value);
  const inner = newline + (options.indent ?? '');
  const [comma, colon] = options.separators;
  const around = (open: string, parts: string[], close: string) => {
    if (parts.length === 0) return open + close;
    if (options.indent === undefined) return made(open + parts.join(comma) + close);
    return made(open + inner + parts.join(comma + inner) + newline + close);
  };
  if (items) {
    return around(
      '[',
      items.map((item) => jsonText(item, options, inner)),
      ']',
    );
  }
  if (value instanceof Dict) {
    const pairs = value.pairs();
    if (options.sortKeys) pairs.sort(([a], [b]) => (ordered('<', a, b) ? -1 : ordered('<', b, a) ? 1 : 0));
    const parts = pairs.map(([key, entry]) => jsonString(jsonKey(key), options.ensureAscii) + colon + jsonText(entry, options, inner));
    return around('{', parts, '}');
  }
  throw new Error(`Object of type ${typeName(value)} is not JSON serializable`);
}

function jsonKey(key: Value): string {
  const text = asText(key);
  if (text !== undefined) return text;
  if (key === null) return 'null';
  if (typeof key === 'boolean') return String(key);
  const number = asNumber(key);
  if (number !== undefined) return jsonNumber(numberText(number));
  throw new Error(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
}

function jsonNumber(text: string): string {
  return { inf: 'Infinity', '-inf': '-Infinity', nan: 'NaN' }[text] ?? text;
}

function jsonString(text: string, ensureAscii: boolean): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what JSON escapes
  const awkward = ensureAscii ? /["\\]|[^ -~]/g : /["\\\0-\x1f]/g;
  const escaped = text.replace(awkward, (unit) => jsonEscapes[unit] ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
  return made(`"${escaped}"`);
}

/** The value of JSON, numbers as they were written. */
export function fromJson(value: JsonValue): Value {
  if (value instanceof JsonNumber) {
    const { text } = value;
    return /^-?\d+$/.test(text) ? int(BigInt(text)) : float(Number(text));
  }
  if (typeof value === 'number') return Number.isInteger(value) ? int(value) : float(value);
  if (value === null || typeof value !== 'object') return value;
  if (Array.isArray(value)) return madeList(value.map(fromJson));
  return Dict.of(orderedKeys(value).map((key) => [key, fromJson(value[key])] as const));
}
