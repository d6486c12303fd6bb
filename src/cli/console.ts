import { stripVTControlCharacters } from 'node:util';
import pico from 'picocolors';

type Colors = ReturnType<typeof pico.createColors>;

/** Standard error for people, standard output for results. With `--json` standard output gets one JSON value and nothing else. */
export class Terminal {
  readonly json: boolean;
  /** True where a line can be rewritten. */
  readonly live: boolean;
  readonly colors: Colors;
  private barShown = false;
  private lastBar = 0;

  constructor(json = false) {
    this.json = json;
    this.live = process.stderr.isTTY === true && process.env.TERM !== 'dumb';
    this.colors = pico.createColors(this.live && pico.isColorSupported);
  }

  get width(): number {
    return Math.max(20, process.stderr.columns || 80);
  }

  /** One or more lines of information. In a terminal those that are too long go on in the next line, between words. */
  note(text: string): void {
    const lines = this.live ? text.split('\n').flatMap((line) => brokenLine(line, this.width)) : [text];
    this.verbatim(lines.join('\n'));
  }

  /** Text as it is: what was read is shown, and breaks where the terminal breaks it. */
  verbatim(text: string): void {
    this.clearBar();
    process.stderr.write(`${text}\n`);
  }

  warn(text: string): void {
    this.note(`${this.colors.yellow('warning:')} ${text}`);
  }

  /**
   * A progress bar in a terminal, always in one line; `share` from 0 to 1. In a pipe nothing, since its callers print lines there.
   */
  bar(share: number, text: string): void {
    const now = performance.now();
    if (!this.live || (this.barShown && share < 1 && now - this.lastBar < 80)) return;
    this.lastBar = now;
    const percent = `${String(Math.floor(100 * share)).padStart(3)}% `;
    // The last column stays free: some terminals go on in the next line as soon as it is filled.
    const room = this.width - percent.length - 2;
    const shown = fitted(text, room - 5);
    const cells = Math.max(5, Math.min(30, room - columnsOf(shown)));
    const full = Math.round(share * cells);
    const line = `${percent}${this.colors.green('━'.repeat(full))}${this.colors.dim('─'.repeat(cells - full))} ${shown}`;
    process.stderr.write(`\r\x1b[2K${line}`);
    this.barShown = true;
  }

  clearBar(): void {
    if (this.barShown) process.stderr.write('\r\x1b[2K');
    this.barShown = false;
  }

  /** The command's outcome: as JSON on standard output, or its text. */
  result(value: object, text: string): void {
    this.clearBar();
    // Also writing nothing fails where nobody reads any more.
    if (this.json) process.stdout.write(`${JSON.stringify(value)}\n`);
    else if (text !== '') process.stdout.write(`${text}\n`);
  }
}

/** `1:02` or `1:02:03`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?';
  const s = Math.max(0, Math.round(seconds));
  const two = (n: number) => String(n).padStart(2, '0');
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

/** Seconds from and to, in the unit that suits the larger: `1.2–2.4 s`, `12–24 min`. */
export function timeRange(range: readonly [number, number]): string {
  const units = [
    ['ms', 0.001, 1],
    ['s', 1, 100],
    ['min', 60, 6000],
    ['h', 3600, 86400 * 3],
    ['days', 86400, Number.POSITIVE_INFINITY],
  ] as const;
  const [unit, size] = units.find(([, , below]) => range[1] < below) ?? units[0];
  // Two digits say enough of a figure that may be off by as much as the range is wide.
  const [from, to] = range.map((seconds) => thousandsOf(Number((seconds / size).toPrecision(2))));
  return `${from}–${to} ${unit}`;
}

const thousandsOf = (n: number) => n.toLocaleString('en', { maximumFractionDigits: 3 });

/** `1,234,567` */
export function thousands(n: number): string {
  return Math.round(n).toLocaleString('en');
}

/** A labelled line, as commands print them, that goes on below its text where it is wider than the terminal. */
export function labelled(label: string, text: string, width: number): string {
  const indent = 11;
  return label.padEnd(indent) + wrap(text, Math.max(20, width - indent)).join(`\n${' '.repeat(indent)}`);
}

/** Rows of two columns, the second wrapped to the width. */
export function definitions(rows: readonly (readonly [string, string])[], width: number, indent = 2): string {
  const first = Math.max(...rows.map(([term]) => term.length)) + 2;
  const room = Math.max(20, width - indent - first);
  const lines = rows.flatMap(([term, text]) =>
    wrap(text, room).map((part, i) => `${' '.repeat(indent)}${(i === 0 ? term : '').padEnd(first)}${part}`.trimEnd()),
  );
  return lines.join('\n');
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [''];
  for (const word of text.split(' ')) {
    const line = lines[lines.length - 1];
    if (line !== '' && columnsOf(line) + 1 + columnsOf(word) > width) lines.push(word);
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
  }
  return lines;
}

/** A line in as many as it needs, all but the first below its text: behind its label, such as `done       `, or its own indentation. */
function brokenLine(line: string, width: number): string[] {
  if (columnsOf(line) < width) return [line];
  const [start] = /^(?:\S+ {2,}| *)/.exec(line) ?? [''];
  const indent = start.length < width / 2 ? start : '';
  return wrap(line.slice(indent.length), width - 1 - indent.length).map((part, i) => (i === 0 ? indent : ' '.repeat(indent.length)) + part);
}

const wide = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u;
const none = /\p{M}|\p{Cf}/u;

/** How many columns of a terminal a text takes, without its colours. */
export function columnsOf(text: string): number {
  let columns = 0;
  for (const character of stripVTControlCharacters(text)) columns += none.test(character) ? 0 : wide.test(character) ? 2 : 1;
  return columns;
}

/** A text of one line that takes at most so many columns: of its longest word, mostly a path, the middle goes first, then its own end. */
export function fitted(text: string, width: number): string {
  const line = text.replace(/\p{Cc}/gu, '?');
  if (columnsOf(line) <= width) return line;
  const words = line.split(' ');
  const longest = words.reduce((best, word, i) => (columnsOf(word) > columnsOf(words[best]) ? i : best), 0);
  const excess = columnsOf(line) - width;
  const kept = columnsOf(words[longest]) - excess - 1;
  if (kept >= 8) {
    const [head, tail] = [cut([...words[longest]], kept >> 1), cut([...words[longest]].reverse(), kept - (kept >> 1)).reverse()];
    words[longest] = `${head.join('')}…${tail.join('')}`;
    return words.join(' ');
  }
  return `${cut([...line], Math.max(0, width - 1)).join('')}…`;
}

/** The first of the characters that fit into so many columns. */
function cut(characters: readonly string[], width: number): string[] {
  let columns = 0;
  const end = characters.findIndex((character) => (columns += columnsOf(character)) > width);
  return characters.slice(0, end < 0 ? undefined : end);
}

/** Milliseconds between lines of progress in a pipe, and before the time that is left is told. */
const lineInterval = 10_000;
const estimateAfter = 2000;

/** Shows how something long comes along and how long it will take: a bar in a terminal, in a pipe a line from time to time. */
export function progressBar(terminal: Terminal): (done: number, total: number, text: string) => void {
  let [began, first, last, shown] = [0, 0, Number.POSITIVE_INFINITY, performance.now()];
  return (done, total, text) => {
    const now = performance.now();
    // Less than before is the beginning of something else.
    if (done < last) [began, first] = [now, done];
    last = done;
    const seconds = (((now - began) / 1000) * (total - done)) / (done - first);
    const line = now - began > estimateAfter && done > first && done < total ? `${text}, ${duration(seconds)} left` : text;
    terminal.bar(done / total, line);
    if (terminal.live || now - shown <= lineInterval) return;
    shown = now;
    terminal.note(line);
  };
}

/** The same for tensors, which are counted. */
export function tensorProgress(terminal: Terminal, what: string): (done: number, total: number) => void {
  const show = progressBar(terminal);
  return (done, total) => show(done, total, `${what} ${done}/${total}`);
}
