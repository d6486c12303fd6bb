import { LowrankError, messageOf } from './errors.js';

export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };
export type JsonObject = { [key: string]: JsonValue };

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
    const position = /position (\d+)/.exec(messageOf(error));
    const offset = position ? Number(position[1]) : source.length;
    const problem = messageOf(error).replace(/ in JSON at position \d+.*$/s, '');
    throw new LowrankError(`not valid JSON: ${problem}`, { place: at(place, source, offset), mend: 'correct the JSON at this place' });
  }
}

/** The same, and the top level must be an object. */
export function parseJsonObject(text: string, place: string): JsonObject {
  const value = parseJson(text, place);
  if (isObject(value)) return value;
  throw new LowrankError('not a JSON object', { place, expected: 'an object in braces' });
}

export function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
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

function at(place: string, text: string, offset: number): string {
  const before = text.slice(0, offset);
  const line = before.split('\n').length;
  return `${place}:${line}:${offset - before.lastIndexOf('\n')}`;
}
