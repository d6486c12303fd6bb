import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { isKnownSplit, splitPatterns } from '../../src/data/split-patterns.js';
import { Tokenizer } from '../../src/data/tokenizer.js';
import { openNativeEncoder } from '../../src/io/node/native-encoder.js';
import type { JsonObject, JsonValue } from '../../src/util/json.js';
import { LinearRegExp } from '../../src/util/linear-regexp.js';
import { goldenTokenizer } from './golden.js';

const { tokenizerJson } = goldenTokenizer('byte-level').files;
const split = (Regex: string): JsonObject => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false });
const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
const splitting = (pattern: string): JsonObject => ({
  ...tokenizerJson,
  pre_tokenizer: { type: 'Sequence', pretokenizers: [split(pattern), bytes] },
});

/** Runs a program over the built package, which must end within 20 seconds: what hangs cannot be stopped from within. */
function inTime(program: string, input: JsonValue): string {
  const code = `const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n${program}`;
  try {
    return execFileSync(process.execPath, ['-e', code], { input: JSON.stringify(input), timeout: 20_000, encoding: 'utf8' });
  } catch (error) {
    return `not in time: ${(error as { code?: string }).code}`;
  }
}

const hostile = ['(a+)+$', '(a|aa)+$', '([a-z]+)*\\d', '(?:a+a+)+b', '\\s*x', '\\s+$'];

test('a tokenizer with hostile expressions comes to an end, in its normalizer, its pre-tokenizer and its decoder', () => {
  const program = `import('#lowrank/data/tokenizer.js').then(({ Tokenizer }) => {
    let count = 0;
    for (const tokenizerJson of input) {
      const tokenizer = new Tokenizer({ tokenizerJson });
      for (const text of ['a'.repeat(1000) + '!', ' '.repeat(20000) + 'a']) count += tokenizer.decode(tokenizer.encode(text)).length;
    }
    console.log(count);
  });`;
  const replace = (Regex: string) => ({ type: 'Replace', pattern: { Regex }, content: '' });
  const files = hostile.flatMap((pattern) => [
    splitting(pattern),
    { ...tokenizerJson, normalizer: { type: 'Sequence', normalizers: [replace(pattern)] } },
    { ...tokenizerJson, decoder: { type: 'Sequence', decoders: [{ type: 'ByteLevel' }, { type: 'Fuse' }, replace(pattern)] } },
  ]);
  expect(Number(inTime(program, files))).toBeGreaterThan(10_000);
});

test('so do the patterns of an adapter', () => {
  const program = `import('#lowrank/adapters/pattern.js').then(({ pythonPattern }) => {
    const path = 'model.layers.0.' + 'a'.repeat(60) + '!';
    const fits = (pattern) => pythonPattern(pattern, 'target_modules', (inner) => '^(?:.*\\\\.)?(?:' + inner + ')$').test(path);
    console.log(input.filter(fits));
  });`;
  expect(inTime(program, hostile)).toBe('[]\n');
});

test('the Rust tokenizer gets expressions of published vocabularies alone', async () => {
  expect(await openNativeEncoder(new Tokenizer({ tokenizerJson: splitting(splitPatterns.llama3) }))).toBeDefined();
  expect(await openNativeEncoder(new Tokenizer({ tokenizerJson: splitting('(a+)+$') }))).toBeUndefined();
  const normalizer = { type: 'Replace', pattern: { Regex: '(a+)+$' }, content: 'x' };
  expect(await openNativeEncoder(new Tokenizer({ tokenizerJson: { ...tokenizerJson, normalizer } }))).toBeUndefined();
});

test.each([
  ['a reference to a group', '(a)\\1', /reference to a group/],
  ['a repetition of what may be empty', '(a*)*', /may be empty/],
  ['a very long expression', 'a'.repeat(30_000), /20000 characters/],
])('%s is refused', (_, pattern, message) => {
  expect(() => new Tokenizer({ tokenizerJson: splitting(pattern) })).toThrow(message);
});

const lengths = 30_000;
const texts = [' ', '\n ', 'a', 'A', 'Aa', 'e\u0301', '\u0301', '1', '! ', '漢', "'s"].map((part) => `${part.repeat(lengths)}x`);

test.each(Object.entries(splitPatterns))('%s is matched alike by both engines, on long texts too', (_, pattern) => {
  expect(isKnownSplit(pattern)).toBe(true);
  // JavaScript has no (?i:…) before version 2025; case is folded by hand, as the tokenizer's library does.
  const source = pattern.replace(
    /\(\?i:([^)]*)\)/g,
    (_, inner: string) => `(?:${inner.replace(/[a-z]/g, (c) => `[${c}${c.toUpperCase()}]`)})`,
  );
  for (const text of texts) {
    const [native, linear] = [new RegExp(source, 'gu'), new LinearRegExp(source, 'gu')].map((each) => text.match(each) ?? []);
    expect(linear.length).toBe(native.length);
    expect(linear.join('|') === native.join('|')).toBe(true);
  }
});
