import { LowrankError } from '../util/errors.js';
import { isObject, type JsonObject, type JsonValue, parseExactJson } from '../util/json.js';
import { utf8Blocks } from './utf8.js';

export interface Row {
  value: JsonObject;
  /** `file:line` */
  place: string;
}

/** A row as it is written, in JSON, and where in its file it begins; both count from 1. */
export interface RowText {
  text: string;
  line: number;
  column: number;
}

/** The rows of a file of any size, which is read anew each time that one goes through them. */
export class RowFile implements AsyncIterable<Row> {
  readonly name: string;
  /** Its size. */
  readonly bytes: number;
  private readonly read: () => AsyncIterable<Uint8Array>;

  /** `name` is for messages; `read` opens the file from its beginning. */
  constructor(name: string, bytes: number, read: () => AsyncIterable<Uint8Array>) {
    this.name = name;
    this.bytes = bytes;
    this.read = read;
  }

  texts(): AsyncGenerator<RowText> {
    return rowTexts(this.read(), this.name);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Row> {
    for await (const text of this.texts()) yield parseRow(text, this.name);
  }
}

/** The rows of a file's text, JSON Lines or a JSON array, whichever it is: files called .json are often JSON Lines. */
export async function readRows(text: string, name: string): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const row of rowTexts([new TextEncoder().encode(text)], name)) rows.push(parseRow(row, name));
  return rows;
}

/** Reads a row. Throws a LowrankError that names line and column where it is no JSON, and the line where it is no object. */
export function parseRow({ text, line, column }: RowText, name: string): Row {
  let value: JsonValue;
  try {
    value = parseExactJson(text, name);
  } catch {
    // Again, for an error that counts from the file's beginning.
    value = parseExactJson('\n'.repeat(line - 1) + ' '.repeat(column - 1) + text, name);
  }
  const place = `${name}:${line}`;
  if (isObject(value)) return { value, place };
  throw new LowrankError('the row is not an object', {
    place,
    expected: 'an object such as {"messages": […]}',
    mend: 'correct the row, or check that this is the right file',
  });
}

/** The rows of a file that comes in pieces, unread. Throws where it is not UTF-8, and where it is neither lines nor an array. */
export async function* rowTexts(bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, name: string): AsyncGenerator<RowText> {
  let splitter: Splitter | undefined;
  let head = '';
  for await (const block of utf8Blocks(bytes, name)) {
    if (splitter) {
      yield* splitter.push(block);
    } else {
      head += block;
      splitter = splitterFor(head, name, false);
      if (splitter) yield* splitter.push(head);
    }
  }
  if (!splitter) {
    splitter = splitterFor(head, name, true) ?? new Lines(name);
    yield* splitter.push(head);
  }
  yield* splitter.end();
}

/** Finds the rows in a text that comes in blocks. */
interface Splitter {
  push(block: string): Iterable<RowText>;
  end(): Iterable<RowText>;
}

/** What splits a file that begins with `head`, or undefined where more of it must be seen. */
function splitterFor(head: string, name: string, ended: boolean): Splitter | undefined {
  const start = head.search(/[^\s\ufeff]/);
  if (start < 0) return undefined;
  if (head[start] === '[') return new Elements(name);
  if (name.endsWith('.jsonl')) return new Lines(name);
  const end = head.indexOf('\n', start);
  if (end < 0 && !ended) return undefined;
  return isWhole(head.slice(start, end < 0 ? undefined : end)) ? new Lines(name) : new OneValue(name);
}

function isWhole(line: string): boolean {
  try {
    parseExactJson(line, '');
    return true;
  } catch {
    return false;
  }
}

/** A text that is gathered piece by piece and must fit a string in the end. */
class Pieces {
  private readonly pieces: string[] = [];
  private length = 0;
  private readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  add(piece: string, line: number): void {
    this.pieces.push(piece);
    this.length += piece.length;
    // The longest string of the engines that there are.
    if (this.length > 0x1fff_ffe8) {
      throw new LowrankError('what begins here is too long for one row', {
        place: `${this.name}:${line}`,
        mend: 'check its quotes and brackets, or write one row per line as .jsonl',
      });
    }
  }

  take(): string {
    this.length = 0;
    return this.pieces.splice(0).join('');
  }
}

/** JSON Lines, with or without CR; blank lines are no rows. */
class Lines implements Splitter {
  private line = 1;
  private readonly rest: Pieces;

  constructor(name: string) {
    this.rest = new Pieces(name);
  }

  *push(block: string): Iterable<RowText> {
    const end = block.lastIndexOf('\n');
    if (end >= 0) {
      this.rest.add(block.slice(0, end), this.line);
      yield* this.split();
    }
    this.rest.add(block.slice(end + 1), this.line);
  }

  end(): Iterable<RowText> {
    return this.split();
  }

  private *split(): Iterable<RowText> {
    for (const text of this.rest.take().split('\n')) {
      const line = this.line++;
      if (text.trim() !== '') yield { text: text.startsWith('\ufeff') ? text.slice(1) : text, line, column: 1 };
    }
  }
}

const code = (character: string) => character.charCodeAt(0);
const [newline, quote, backslash, comma] = ['\n', '"', '\\', ','].map(code);
const blanks = [' ', '\t', '\n', '\r', '\ufeff'].map(code);
const openers = ['[', '{'].map(code);
const closers = [']', '}'].map(code);
const bracket = { open: code('['), close: code(']') };

/** The elements of a JSON array. Of an element only brackets and strings are looked at; whoever reads it checks it. */
class Elements implements Splitter {
  /** What may come next, outside of elements. */
  private next: 'array' | 'first' | 'value' | 'rest' | 'nothing' = 'array';
  /** Characters before this block, and before this line. */
  private before = 0;
  private lineStart = 0;
  private line = 1;
  /** Where the element under way begins; its brackets that are open, and whether a string is. */
  private element: { line: number; column: number } | undefined;
  private depth = 0;
  private inString = false;
  private escaped = false;
  private readonly pieces: Pieces;
  private readonly name: string;

  constructor(name: string) {
    this.name = name;
    this.pieces = new Pieces(name);
  }

  *push(block: string): Iterable<RowText> {
    let from = 0;
    for (let i = 0; i < block.length; i++) {
      const c = block.charCodeAt(i);
      if (this.element) {
        const end = this.elementEnd(c, i);
        if (end >= 0) {
          this.pieces.add(block.slice(from, end), this.element.line);
          yield this.finish(this.element);
        }
        if (end === i) this.between(c, i, block);
      } else if (this.between(c, i, block)) from = i;
      if (c === newline) {
        this.line++;
        this.lineStart = this.before + i + 1;
      }
    }
    if (this.element) this.pieces.add(block.slice(from), this.element.line);
    this.before += block.length;
  }

  end(): Iterable<RowText> {
    // What is not closed is no JSON, and reading it says where.
    if (this.element) parseRow({ text: this.pieces.take(), ...this.element }, this.name);
    if (this.next !== 'nothing') throw this.unexpected('the end of the text', this.before);
    return [];
  }

  private finish(element: { line: number; column: number }): RowText {
    this.element = undefined;
    return { text: this.pieces.take(), ...element };
  }

  /** Where the element under way ends: behind this character, before it, or (−1) later. */
  private elementEnd(c: number, i: number): number {
    if (this.inString) {
      if (this.escaped) this.escaped = false;
      else if (c === backslash) this.escaped = true;
      else if (c === quote) this.inString = false;
    } else if (c === quote) this.inString = true;
    else if (this.depth === 0 && (c === comma || blanks.includes(c) || closers.includes(c))) return i;
    else if (openers.includes(c)) this.depth++;
    else if (closers.includes(c) && --this.depth === 0) return i + 1;
    return -1;
  }

  /** Takes a character outside of elements; true where an element begins with it. */
  private between(c: number, i: number, block: string): boolean {
    if (blanks.includes(c)) return false;
    const { next } = this;
    if (next === 'array' && c === bracket.open) this.next = 'first';
    else if (c === bracket.close && (next === 'first' || next === 'rest')) this.next = 'nothing';
    else if (c === comma && next === 'rest') this.next = 'value';
    else if ((next === 'first' || next === 'value') && c !== comma && !closers.includes(c)) {
      this.element = { line: this.line, column: this.before + i - this.lineStart + 1 };
      this.depth = openers.includes(c) ? 1 : 0;
      this.inString = c === quote;
      this.next = 'rest';
      return true;
    } else throw this.unexpected(JSON.stringify(String.fromCodePoint(block.codePointAt(i)!)), this.before + i);
    return false;
  }

  private unexpected(found: string, offset: number): LowrankError {
    const expected = { array: '"["', first: 'a value or "]"', value: 'a value', rest: '"," or "]"', nothing: 'the end of the text' };
    return new LowrankError(`not valid JSON: ${found} where ${expected[this.next]} was expected`, {
      place: `${this.name}:${this.line}:${offset - this.lineStart + 1}`,
      mend: 'correct the JSON at this place',
    });
  }
}

/** A file that holds one value, which is no row: all that comes of it is an error. */
class OneValue implements Splitter {
  private readonly pieces: Pieces;
  private readonly name: string;

  constructor(name: string) {
    this.name = name;
    this.pieces = new Pieces(name);
  }

  push(block: string): Iterable<RowText> {
    this.pieces.add(block, 1);
    return [];
  }

  end(): Iterable<RowText> {
    const value = parseExactJson(this.pieces.take(), this.name);
    throw new LowrankError(`the top level is ${isObject(value) ? 'an object' : 'a single value'}`, {
      place: `${this.name}:1:1`,
      expected: 'an array of objects, or one object per line',
      mend: 'put the rows into [ ], or write one row per line as .jsonl',
    });
  }
}
