import { LowrankError, nearest } from '../../util/errors.js';
import { type JsonValue, parseExactJson } from '../../util/json.js';
import type { Row } from '../rows.js';

/** Reads the columns of one row and remembers which: what nobody asked for is content that would be lost. Errors name the row. */
export class RowReader {
  readonly place: string;
  private readonly row: Row;
  private readonly read = new Set<string>();

  constructor(row: Row) {
    this.row = row;
    this.place = row.place;
  }

  has(key: string): boolean {
    return !saysNothing(this.row.value[key]);
  }

  /** A column that may be absent. */
  optional(key: string): JsonValue | undefined {
    this.read.add(key);
    return Object.hasOwn(this.row.value, key) ? this.row.value[key] : undefined;
  }

  /** A column that must be there. */
  value(key: string): JsonValue {
    const value = this.optional(key);
    if (value !== undefined) return value;
    const near = nearest(key, Object.keys(this.row.value));
    throw this.fail(`the row has no ${quoted(key)}`, undefined, near ? `rename ${near} to ${key}` : `add ${key} to the row`);
  }

  text(key: string): string {
    const value = this.value(key);
    if (typeof value === 'string') return value;
    throw this.fail(`${quoted(key)} is ${kindOf(value)}`, 'a text');
  }

  /** A text that may be absent, null or empty: then ''. */
  optionalText(key: string): string {
    return saysNothing(this.optional(key)) ? '' : this.text(key);
  }

  /** A list; tables that cannot hold one have it as JSON in a text. */
  list(key: string): JsonValue[] {
    const given = this.value(key);
    const value = typeof given === 'string' ? (listOf(given) ?? given) : given;
    if (Array.isArray(value)) return value;
    throw this.fail(`${quoted(key)} is ${kindOf(value)}`, 'a list');
  }

  /** The columns that somebody asked for, and of the others those that say something. */
  columns(): { read: string[]; unread: string[] } {
    const keys = Object.keys(this.row.value);
    return { read: keys.filter((key) => this.read.has(key)), unread: keys.filter((key) => !this.read.has(key) && this.has(key)) };
  }

  fail(problem: string, expected?: string, mend = 'correct the row'): LowrankError {
    return new LowrankError(problem, { place: this.place, expected, mend });
  }
}

/** The list that a text holds as JSON, or undefined. */
export function listOf(text: string): JsonValue[] | undefined {
  if (!/^\s*\[/.test(text)) return undefined;
  try {
    const value = parseExactJson(text, 'a list');
    return Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Absent, null, an empty text, list or object. */
export function saysNothing(value: JsonValue | undefined): boolean {
  if (value === undefined || value === null || value === '') return true;
  return typeof value === 'object' && Object.keys(value).length === 0;
}

/** What a value is, as errors say it. */
export function kindOf(value: JsonValue): string {
  if (value === null) return 'null';
  if (value === '') return 'an empty text';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value === 'string' ? 'text' : typeof value}`;
}

/** A key in quotes, of bounded length. */
export const quoted = (key: string): string => JSON.stringify(key.length > 40 ? `${key.slice(0, 40)}…` : key);
