import { LowrankError } from '../util/errors.js';
import type { GgufValue } from './gguf.js';

/** The key-value pairs of a GGUF file, each checked to have the type that is asked for. All give undefined where the key is absent. */
export class GgufMetadata {
  private readonly place: string;
  private readonly values: ReadonlyMap<string, GgufValue>;

  constructor(place: string, values: ReadonlyMap<string, GgufValue>) {
    this.place = place;
    this.values = values;
  }

  string(key: string): string | undefined {
    return this.typed(key, 'a string', (value) => typeof value === 'string') as string | undefined;
  }

  number(key: string): number | undefined {
    return this.typed(key, 'a finite number', Number.isFinite) as number | undefined;
  }

  /** A whole number from 0 to 2^31 − 1. */
  count(key: string): number | undefined {
    const isCount = (value: GgufValue) => Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31;
    return this.typed(key, 'a whole number', isCount) as number | undefined;
  }

  /** The same for each layer: a list, or one number. */
  counts(key: string): number[] | undefined {
    const value = this.values.get(key);
    return Array.isArray(value) ? this.numbers(key) : value === undefined ? undefined : [this.count(key)!];
  }

  boolean(key: string): boolean | undefined {
    return this.typed(key, 'true or false', (value) => typeof value === 'boolean') as boolean | undefined;
  }

  strings(key: string): string[] | undefined {
    return this.typed(key, 'a list of strings', (value) => isList(value, 'string')) as string[] | undefined;
  }

  numbers(key: string): number[] | undefined {
    return this.typed(key, 'a list of numbers', (value) => isList(value, 'number')) as number[] | undefined;
  }

  /** The value, or an error where the key is absent. */
  required<T>(key: string, value: T | undefined): T {
    if (value === undefined) throw this.error(key, 'is missing');
    return value;
  }

  error(key: string, problem: string, expected?: string, mend = 'convert the file again with a current llama.cpp'): LowrankError {
    return new LowrankError(problem, { place: `${this.place}: metadata "${key}"`, expected, mend });
  }

  private typed(key: string, expected: string, accepts: (value: GgufValue) => boolean): GgufValue | undefined {
    const value = this.values.get(key);
    if (value === undefined || accepts(value)) return value;
    throw this.error(key, `is ${Array.isArray(value) ? 'a list' : JSON.stringify(value)}`, expected);
  }
}

function isList(value: GgufValue, type: 'string' | 'number'): boolean {
  return Array.isArray(value) && value.every((item) => typeof item === type);
}
