import { LowrankError } from './errors.js';

export type JsonValue = null | boolean | number | string | JsonNumber | JsonValue[] | { [key: string]: JsonValue };
export type JsonObject = { [key: string]: JsonValue };

/** A number whose text says more than a double keeps: 20.0, 1e-07, integers above 2⁵³. Only `parseExactJson` makes them. */
export class JsonNumber extends Number {
  readonly text: string;

  constructor(text: string) {
    super(text);
    this.text = text;
  }
}

/** Where an object has keys that JavaScript would put first, such as "7": its keys as they were written. */
const keyOrder = Symbol('the order of keys');

/** The keys of an object in the order of its text. */
export function orderedKeys(value: JsonObject): string[] {
  return (value as { [keyOrder]?: string[] })[keyOrder] ?? Object.keys(value);
}

/** Deeper nesting than this has no use in the files that are read here, and could exhaust the stack. */
const maxDepth = 100;

/**
 * JSON.parse for files from outside: nesting is bounded, `__proto__` is refused as a key, and an error names line and column.
 * `place` is the file's name.
 */
export function parseJson(text: string, place: string): JsonValue {
  const source = text.startsWith('\ufeff') ? text.slice(1) : text;
  const tooDeep = depthExceeded(source);
  if (tooDeep >= 0) {
    throw new LowrankError(`nested deeper than ${maxDepth} levels`, { place: at(place, source, tooDeep), mend: 'flatten the JSON' });
  }
  try {
    return JSON.parse(source, (key, value) => {
      if (key === '__proto__') throw new LowrankError('the key "__proto__" is not allowed', { place, mend: 'remove it' });
      return value;
    });
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    const { offset, expected } = firstError(source);
    const found = offset < source.length ? JSON.stringify(String.fromCodePoint(source.codePointAt(offset)!)) : 'the end of the text';
    throw new LowrankError(`not valid JSON: ${found} where ${expected} was expected`, {
      place: at(place, source, offset),
      mend: 'correct the JSON at this place',
    });
  }
}

/**
 * The same for rows, whose numbers and keys reach texts: a number that JavaScript would write otherwise is a `JsonNumber`, and
 * `orderedKeys` gives the keys of an object in their order. Other values are plain.
 */
export function parseExactJson(text: string, place: string): JsonValue {
  const value = parseJson(text, place);
  return /[:[,]\s*-?(?:\d+[.eE]|\d{16})|-0|"\d+"\s*:/.test(text) ? exactly(text) : value;
}

const tokens = /[\s\ufeff,:]*([{}[\]]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s,:{}[\]"]+)/y;

/** The value of a text that is known to be valid JSON, with exact numbers and orders of keys. */
function exactly(text: string): JsonValue {
  tokens.lastIndex = 0;
  const next = (): string => tokens.exec(text)?.[1] ?? '';
  const read = (token: string): JsonValue => {
    if (token === '[') {
      const items: JsonValue[] = [];
      for (let inner = next(); inner !== ']'; inner = next()) items.push(read(inner));
      return items;
    }
    if (token === '{') {
      const entries: JsonObject = {};
      const keys = new Set<string>();
      for (let inner = next(); inner !== '}'; inner = next()) {
        const key: string = JSON.parse(inner);
        keys.add(key);
        entries[key] = read(next());
      }
      if ([...keys].some((key) => /^\d+$/.test(key))) Object.defineProperty(entries, keyOrder, { value: [...keys] });
      return entries;
    }
    const value: JsonValue = JSON.parse(token);
    if (typeof value !== 'number') return value;
    const whole = /^-?\d+$/.test(token);
    return whole
      ? Number.isSafeInteger(value) && token !== '-0'
        ? value
        : new JsonNumber(token)
      : Number.isInteger(value)
        ? new JsonNumber(token)
        : value;
  };
  return read(next());
}

/** The same, and the top level must be an object. */
export function parseJsonObject(text: string, place: string): JsonObject {
  const value = parseJson(text, place);
  if (isObject(value)) return value;
  throw new LowrankError('not a JSON object', { place, expected: 'an object in braces', mend: 'check that this is the right file' });
}

export function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof JsonNumber);
}

/** The offset at which the nesting passes the bound, or −1. */
function depthExceeded(text: string): number {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (inString) {
      if (c === 0x5c) i++;
      else if (c === 0x22) inString = false;
    } else if (c === 0x22) inString = true;
    else if (c === 0x5b || c === 0x7b) {
      if (++depth > maxDepth) return i;
    } else if (c === 0x5d || c === 0x7d) depth--;
  }
  return -1;
}

const space = /[\t\n\r ]+/y;
const literal = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;
const characters = /[ !#-[\]-\uffff]+|\\(?:["\\/bfnrt]|u[\da-fA-F]{4})/y;

/** Where a text that JSON.parse refuses stops being JSON, and what could have stood there: the engine's own message does not always say. */
function firstError(text: string): { offset: number; expected: string } {
  let offset = 0;
  const skip = (pattern: RegExp): boolean => {
    pattern.lastIndex = offset;
    const found = pattern.test(text);
    if (found) offset = pattern.lastIndex;
    return found;
  };
  const take = (character: string): boolean => {
    const found = text[offset] === character;
    if (found) offset++;
    return found;
  };
  const unended = 'the rest of a string (line breaks, tabs and backslashes are written with a backslash)';
  const restOfString = (): boolean => {
    while (skip(characters));
    return take('"');
  };
  const closers: (']' | '}')[] = [];
  let next: 'value' | 'first value' | 'key' | 'first key' | 'rest' = 'value';
  for (;;) {
    skip(space);
    const closer = closers.at(-1);
    const closable = next === 'rest' || next.startsWith('first');
    if (closer && closable && take(closer)) {
      closers.pop();
      next = 'rest';
    } else if (next === 'rest') {
      if (!closer) return { offset, expected: 'the end of the text' };
      if (!take(',')) return { offset, expected: `"," or "${closer}"` };
      next = closer === ']' ? 'value' : 'key';
    } else if (next === 'key' || next === 'first key') {
      if (!take('"')) return { offset, expected: `a key in double quotes${next === 'key' ? '' : ' or "}"'}` };
      if (!restOfString()) return { offset, expected: unended };
      skip(space);
      if (!take(':')) return { offset, expected: '":"' };
      next = 'value';
    } else if (take('[')) {
      closers.push(']');
      next = 'first value';
    } else if (take('{')) {
      closers.push('}');
      next = 'first key';
    } else {
      if (take('"')) {
        if (!restOfString()) return { offset, expected: unended };
      } else if (!skip(literal)) return { offset, expected: next === 'value' ? 'a value' : 'a value or "]"' };
      next = 'rest';
    }
  }
}

function at(place: string, text: string, offset: number): string {
  const before = text.slice(0, offset);
  const line = before.split('\n').length;
  return `${place}:${line}:${offset - before.lastIndexOf('\n')}`;
}
