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
    return Math.max(40, process.stderr.columns ?? 80);
  }

  /** One or more lines of information. */
  note(text: string): void {
    this.clearBar();
    process.stderr.write(`${text}\n`);
  }

  warn(text: string): void {
    this.note(`${this.colors.yellow('warning:')} ${text}`);
  }

  /** A progress bar in a terminal; `share` from 0 to 1. In a pipe nothing, since its callers print lines there. */
  bar(share: number, text: string): void {
    const now = performance.now();
    if (!this.live || (this.barShown && share < 1 && now - this.lastBar < 80)) return;
    this.lastBar = now;
    const percent = `${String(Math.floor(100 * share)).padStart(3)}% `;
    const cells = Math.max(5, Math.min(30, this.width - percent.length - stripVTControlCharacters(text).length - 3));
    const full = Math.round(share * cells);
    const line = `${percent}${this.colors.green('━'.repeat(full))}${this.colors.dim('─'.repeat(cells - full))} ${text}`;
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
    if (line !== '' && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
  }
  return lines;
}

/** Milliseconds between lines of progress in a pipe. */
const lineInterval = 10_000;

/** Shows how tensors come along: a bar in a terminal, in a pipe a line from time to time. */
export function tensorProgress(terminal: Terminal, what: string): (done: number, total: number) => void {
  let shown = performance.now();
  return (done, total) => {
    const text = `${what} ${done}/${total}`;
    terminal.bar(done / total, text);
    if (terminal.live || performance.now() - shown <= lineInterval) return;
    shown = performance.now();
    terminal.note(text);
  };
}
