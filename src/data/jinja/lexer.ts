import { float, type Int, int } from './numbers.js';
import { isSpace, space } from './text.js';
import type { Value } from './values.js';

/**
 * A template's text to tokens, with white space around tags as transformers has it (`trim_blocks`, `lstrip_blocks`): the line break behind
 * a block goes, and so do the spaces before a block that begins its line. Each character is looked at a bounded number of times.
 */
export interface Token {
  type: 'text' | 'block begin' | 'block end' | 'print begin' | 'print end' | 'name' | 'string' | 'number' | 'operator' | 'end';
  /** The text, name or operator. */
  text: string;
  /** Of a number. */
  value?: Value;
  line: number;
}

/** An error at a line of the template. */
export class TemplateError extends Error {
  constructor(message: string, line: number) {
    super(`line ${line}: ${message}`);
  }
}

const gap = new RegExp(`[${space}]+`, 'y');
const rawBegin = new RegExp(`\\{%([-+]?)[${space}]*raw[${space}]*(?:-%\\}[${space}]*|%\\})`, 'y');
const rawEnd = new RegExp(`\\{%([-+]?)[${space}]*endraw[${space}]*(?:\\+%\\}|-%\\}[${space}]*|%\\}\\n?)`, 'g');
const blockEnd = new RegExp(`\\+%\\}|-%\\}[${space}]*|%\\}\\n?`, 'y');
const printEnd = new RegExp(`-\\}\\}[${space}]*|\\}\\}`, 'y');
const floatPattern = /(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy;
const integerPattern = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy;
const namePattern = /[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}]*/uy;
const stringPattern = /'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"/sy;
const operatorPattern = /\/\/|\*\*|==|!=|>=|<=|[-+/*%~[\](){}<>=.:|,;]/y;

const closers: Record<string, string> = { '(': ')', '[': ']', '{': '}' };

export function tokenize(template: string): Token[] {
  return new Lexer(template.replace(/\r\n|\r/g, '\n').replace(/\n$/, '')).run();
}

class Lexer {
  private readonly tokens: Token[] = [];
  private at = 0;
  private line = 1;
  /** Whether the text before begins a line. */
  private lineStarts = true;

  private readonly source: string;

  constructor(source: string) {
    this.source = source;
  }

  run(): Token[] {
    while (this.at < this.source.length) this.textAndTag();
    this.push('end', '');
    return this.tokens;
  }

  private push(type: Token['type'], text: string, value?: Value): void {
    this.tokens.push({ type, text, value, line: this.line });
  }

  /** Moves on to `end`. */
  private advance(end: number): void {
    for (let at = this.source.indexOf('\n', this.at); at >= 0 && at < end; at = this.source.indexOf('\n', at + 1)) this.line++;
    if (end > this.at) this.lineStarts = this.source[end - 1] === '\n';
    this.at = end;
  }

  private match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.at;
    return pattern.exec(this.source);
  }

  /** The text up to the next tag, and the tag. */
  private textAndTag(): void {
    const { source } = this;
    let open = source.indexOf('{', this.at);
    while (open >= 0 && !'%{#'.includes(source[open + 1] ?? ' ')) open = source.indexOf('{', open + 1);
    if (open < 0) {
      this.push('text', source.slice(this.at));
      this.advance(source.length);
      return;
    }
    const kind = source[open + 1];
    rawBegin.lastIndex = open;
    const raw = kind === '%' ? rawBegin.exec(source) : null;
    const sign = raw ? raw[1] : '-+'.includes(source[open + 2] ?? ' ') ? source[open + 2] : '';
    this.text(this.at, open, sign, kind === '{');
    this.advance(raw ? open + raw[0].length : open + 2 + sign.length);
    if (raw) this.rawText();
    else if (kind === '#') this.comment();
    else {
      this.push(kind === '{' ? 'print begin' : 'block begin', '');
      this.tag(kind === '{' ? 'print end' : 'block end', kind === '{' ? printEnd : blockEnd);
    }
  }

  /** The text source[start, end) before a tag with this sign. */
  private text(start: number, end: number, sign: string, beforePrint: boolean): void {
    let stop = end;
    if (sign === '-') {
      while (stop > start && isSpace(this.source[stop - 1])) stop--;
    } else if (sign !== '+' && !beforePrint) {
      let from = end;
      while (from > start && this.source[from - 1] !== '\n' && isSpace(this.source[from - 1])) from--;
      if (from > start ? this.source[from - 1] === '\n' : this.lineStarts) stop = from;
    }
    if (stop > start) this.push('text', this.source.slice(start, stop));
    this.advance(end);
  }

  private rawText(): void {
    rawEnd.lastIndex = this.at;
    const end = rawEnd.exec(this.source);
    if (!end) throw new TemplateError('a raw block is not closed', this.line);
    this.text(this.at, end.index, end[1], false);
    this.advance(end.index + end[0].length);
  }

  private comment(): void {
    const end = this.source.indexOf('#}', this.at);
    if (end < 0) throw new TemplateError('a comment is not closed', this.line);
    const sign = end > this.at ? this.source[end - 1] : '';
    this.advance(end + 2);
    if (sign === '-') this.advance(this.at + (this.match(gap)?.[0].length ?? 0));
    else if (sign !== '+' && this.source[this.at] === '\n') this.advance(this.at + 1);
  }

  private tag(end: 'print end' | 'block end', endPattern: RegExp): void {
    const open: string[] = [];
    const opened = this.line;
    for (;;) {
      if (this.at >= this.source.length) throw new TemplateError('a tag is not closed', opened);
      const found = open.length === 0 ? this.match(endPattern) : null;
      if (found) {
        this.push(end, '');
        this.advance(this.at + found[0].length);
        return;
      }
      const blank = this.match(gap);
      if (blank) this.advance(this.at + blank[0].length);
      else this.token(open);
    }
  }

  private token(open: string[]): void {
    const number = this.match(floatPattern);
    const integer = number ? null : this.match(integerPattern);
    const name = number || integer ? null : this.match(namePattern);
    const string = number || integer || name ? null : this.match(stringPattern);
    const operator = number || integer || name || string ? null : this.match(operatorPattern);
    const found = (number ?? integer ?? name ?? string ?? operator)?.[0];
    if (found === undefined) {
      const character = String.fromCodePoint(this.source.codePointAt(this.at) ?? 0);
      const problem = '\'"'.includes(character) ? 'a text is not closed' : `unexpected ${JSON.stringify(character)}`;
      throw new TemplateError(problem, this.line);
    }
    if (number) this.push('number', found, float(Number(found.replaceAll('_', ''))));
    else if (integer) this.push('number', found, integerOf(found, this.line));
    else if (name) this.push('name', found);
    else if (string) this.push('string', unescaped(found.slice(1, -1), this.line));
    else {
      if (found in closers) open.push(closers[found]);
      else if (')]}'.includes(found) && open.pop() !== found) throw new TemplateError(`unexpected "${found}"`, this.line);
      this.push('operator', found);
    }
    this.advance(this.at + found.length);
  }
}

function integerOf(text: string, line: number): Int {
  if (text.length > 4300) throw new TemplateError('a number has more than 4300 digits', line);
  return int(BigInt(text.replaceAll('_', '')));
}

const escapes: Record<string, string> = { n: '\n', t: '\t', r: '\r', a: '\x07', b: '\b', f: '\f', v: '\v', '\n': '' };

/** The escapes of Python's texts; a backslash before anything else stays. */
function unescaped(text: string, line: number): string {
  return text.replace(
    /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|(.))/gs,
    (whole, x, u, long, octal, other: string | undefined) => {
      const code = x ?? u ?? long;
      if (code !== undefined) {
        const point = Number.parseInt(code, 16);
        if (point > 0x10ffff) throw new TemplateError(`${whole} is no character`, line);
        return String.fromCodePoint(point);
      }
      if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
      if (other !== undefined && 'xuUN'.includes(other))
        throw new TemplateError(`the escape ${whole} is incomplete or not supported`, line);
      return other === undefined || '\\\'"'.includes(other) ? (other ?? '') : (escapes[other] ?? whole);
    },
  );
}
