import { expect, test, vi } from 'vitest';
import { columnsOf, fitted, labelled, Terminal, tensorProgress } from '../../src/cli/console.js';
import { sessionListener } from '../../src/cli/run-listener.js';
import type { SessionEvent } from '../../src/runs/events.js';

test('a labelled line goes on below its text, within the width', () => {
  const text = 'train.jsonl: 400 rows, 29,386 tokens, 13,789 supervised, longest 99, chat_template';
  const lines = labelled('data', text, 80).split('\n');
  expect(lines).toEqual(['data       train.jsonl: 400 rows, 29,386 tokens, 13,789 supervised, longest 99,', '           chat_template']);
  expect(labelled('plan', '2 GB', 80)).toBe('plan       2 GB');
});

/** Controls, and characters with their accents. */
const parts = new RegExp(`(\\r|\\n|${'\u001b'}\\[[\\d;]*[A-Za-z])|\\P{M}\\p{M}*`, 'gsu');

/** A terminal that keeps what stands in each of its lines, as real ones do: a line that is full goes on in the next one. */
class Screen {
  lines: string[][] = [[]];
  private column = 0;
  private readonly columns: number;

  constructor(columns: number) {
    this.columns = columns;
  }
  write(text: string): void {
    for (const [part, control] of text.matchAll(parts)) {
      if (control === '\r') this.column = 0;
      else if (control === '\n') this.feed();
      else if (control === '\x1b[2K') this.lines[this.lines.length - 1] = [];
      else if (control === undefined) {
        const width = /[\u2e80-\ua4cf\uac00-\ud7a3\uff00-\uff60]|\p{Emoji_Presentation}/u.test(part) ? 2 : 1;
        if (this.column + width > this.columns) this.feed();
        this.lines[this.lines.length - 1][this.column] = part;
        this.column += width;
      }
    }
  }
  private feed(): void {
    this.lines.push([]);
    this.column = 0;
  }
  get text(): string[] {
    return this.lines.map((line) => Array.from(line, (part) => part ?? '').join(''));
  }
}

/** What a terminal of so many columns shows of what a listener is told. */
function shown(columns: number, use: (terminal: Terminal) => void): Screen {
  const screen = new Screen(columns);
  const { isTTY, columns: before } = process.stderr;
  const write = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    screen.write(String(text));
    return true;
  });
  try {
    Object.assign(process.stderr, { isTTY: true, columns });
    use(new Terminal());
  } finally {
    Object.assign(process.stderr, { isTTY, columns: before });
    write.mockRestore();
  }
  return screen;
}

const path = `/home/somebody/models/${'very-long-name/'.repeat(20)}checkpoint-100/model-00001-of-00002.safetensors`;

test.each([40, 60, 80, 132, 200])('a bar stays in one line of %i columns, whatever its text', (columns) => {
  const events: SessionEvent[] = [
    { type: 'loading', model: path, done: 1, total: 3 },
    { type: 'loading', model: '漢字'.repeat(90), done: 1, total: 3 },
    { type: 'loading', model: '🎉 e\u0301'.repeat(90), done: 1, total: 3 },
    { type: 'loading', model: 'a\nb\x1b[2J\tc', done: 1, total: 3 },
    { type: 'download', file: path, done_bytes: 1e9, total_bytes: 3e9 },
  ];
  for (const event of events) {
    const screen = shown(columns, (terminal) => sessionListener(terminal)(event));
    expect(screen.lines, JSON.stringify(screen.text)).toHaveLength(1);
    expect(screen.text[0]).toMatch(/^ 33% ━━/);
  }
  const step = '123/12345 1:01:01<13:03:01 loss 11.2346 1,235,123 tok/s';
  expect(shown(columns, (terminal) => terminal.bar(0.5, step)).text).toEqual([expect.stringMatching(/^ 50% .*123\/12345/)]);
});

test('of a long path the bar shows the beginning and the end', () => {
  const [line] = shown(80, (terminal) => terminal.bar(0.5, `loading ${path}`)).text;
  expect(line).toMatch(/ loading \/home\/somebody.*….*of-00002\.safetensors$/);
  expect(fitted('short', 5)).toBe('short');
  expect(fitted('one two three', 9)).toBe('one two …');
  expect(columnsOf('漢a\u0301\x1b[32m🎉\x1b[39m')).toBe(5);
});

test('long lines go on in the next one between words, below their text; in a pipe they stay as they are', () => {
  const text = `done       ${'step '.repeat(30)}\n  ${'indented '.repeat(12)}\nshort\n${path}`;
  const screen = shown(80, (terminal) => terminal.note(text)).text;
  const words = text.split(/\s+/).filter(Boolean);
  expect(screen.join(' ').split(/\s+/).filter(Boolean).slice(0, 43)).toEqual(words.slice(0, 43));
  expect(screen[1]).toMatch(/^ {11}step/);
  expect(screen.filter((line) => line.includes('indented')).every((line) => line.startsWith('  indented'))).toBe(true);
  expect(shown(80, (terminal) => terminal.verbatim('a  b\n c')).text).toEqual(['a  b', ' c', '']);
  const written: string[] = [];
  const write = vi.spyOn(process.stderr, 'write').mockImplementation((part) => written.push(String(part)) > 0);
  const terminal = new Terminal();
  Object.assign(terminal, { live: false });
  terminal.note(text);
  write.mockRestore();
  expect(written.join('')).toBe(`${text}\n`);
});

test('what takes long says how much longer: by the speed since it began, from the third second on', () => {
  const clock = vi.spyOn(performance, 'now').mockReturnValue(1000);
  const told: string[] = [];
  const terminal = new Terminal();
  Object.assign(terminal, { live: true });
  vi.spyOn(terminal, 'bar').mockImplementation((_, text) => void told.push(text));
  vi.spyOn(terminal, 'clearBar').mockImplementation(() => {});
  const listen = sessionListener(terminal);
  const download = (file: string, done_bytes: number, seconds: number) => {
    clock.mockReturnValue(1000 + 1000 * seconds);
    listen({ type: 'download', file, done_bytes, total_bytes: 1000 });
  };
  // One that goes on where an earlier one ended.
  download('a', 400, 0);
  download('a', 450, 1);
  download('a', 500, 10);
  download('b', 0, 11);
  download('b', 10, 21);
  const merge = tensorProgress(terminal, 'merging');
  merge(1, 100);
  clock.mockReturnValue(1000 + 1000 * 51);
  merge(11, 100);
  clock.mockRestore();
  expect(told.map((text) => text.replace(/ {2}.*kB/, ''))).toEqual([
    ...['a', 'a', 'a, 0:50 left', 'b', 'b, 16:30 left', 'merging 1/100', 'merging 11/100, 4:27 left'],
  ]);
});
