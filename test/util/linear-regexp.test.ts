import { expect, test } from 'vitest';
import { LinearRegExp } from '../../src/util/linear-regexp.js';
import { Random } from '../../src/util/philox.js';

/** Everything that both engines say of a pattern and a text. */
function both(pattern: string, flags: string, text: string): [unknown, unknown] {
  const [native, linear] = [new RegExp(pattern, flags), new LinearRegExp(pattern, flags)].map((expression) => ({
    found: text.search(expression),
    pieces: /\((?!\?[:=!<])|\?<[a-z]/.test(pattern) ? [] : text.split(expression),
    matches: Array.from(text.matchAll(expression), ({ 0: match, index, groups }) => [match, index, groups && { ...groups }]),
    replaced: text.replaceAll(expression, '<$&>'),
  }));
  return [native, linear];
}

const gpt2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

test.each<[string, string, string]>([
  [gpt2, 'gu', "The größte  Straße's 12345 tokens, \n\n\tcafe\u0301 ﬁ 漢字🎉👩‍👩‍👧 \u00a0\u200bx...   "],
  ['(?<=\\p{L})\\d+(?!x)|(?<!a)b', 'gu', 'a12x b34 ab bb é9'],
  ['(?<=🎉.{2})x', 'gu', '🎉🎉ax 🎉abx'],
  ['a{2,3}?|b{2}c?|d{0,2}e', 'gu', 'aaaaa bbc bbb dde ddde e'],
  ['^\\w+\\b|\\B.$', 'gm', 'one two\nthree'],
  ['(?<year>\\d{4})-(?<month>\\d\\d)|(?<word>[a-z]+)', 'g', '2024-07 and 1999-12'],
  ['(?:a|ab)(?:c|bcd)(?<rest>d*)', 'g', 'abcd abcdd acd'],
  ['(?=(?:a|b)*c)[ab]', 'g', 'ababc abab'],
  ['STRASSE|ß|k', 'giu', 'straße Strasse K'],
  ['.', 'gs', 'a\n🎉'],
  ['.', 'gu', 'a\n🎉'],
  ['', 'gu', 'a🎉'],
])('%s is what JavaScript makes of it', (pattern, flags, text) => {
  const [native, linear] = both(pattern, flags, text);
  expect(linear).toEqual(native);
});

test('random patterns match as in JavaScript', () => {
  const random = new Random(23, 0);
  const draw = (n: number) => Math.floor(random.next() * n);
  const pick = <T>(list: readonly T[]) => list[draw(list.length)];
  const atom = (depth: number): string => {
    if (depth === 0 || draw(3) > 0) return pick(['a', 'b', 'c', '[ab]', '[^a]', '.', '\\w', '\\s', 'é']);
    return `${pick(['(?:', '(?:', '(?=', '(?!', '(?<=', '(?<!', '('])}${alternatives(depth - 1)})`;
  };
  const item = (depth: number): string => {
    const one = atom(depth);
    return one.startsWith('(?=') || one.startsWith('(?!') || one.startsWith('(?<')
      ? one
      : one + pick(['', '', '*', '+', '?', '*?', '+?', '{1,2}', '{2}']);
  };
  const alternatives = (depth: number): string =>
    Array.from({ length: 1 + draw(2) }, () => Array.from({ length: 1 + draw(3) }, () => item(depth)).join('')).join('|');
  let compared = 0;
  for (let i = 0; i < 1000; i++) {
    const [pattern, flags] = [alternatives(3), pick(['g', 'gu', 'gi', 'giu', 'gs'])];
    const text = Array.from({ length: draw(12) }, () => pick(['a', 'b', 'c', 'A', ' ', '\n', 'é'])).join('');
    try {
      new LinearRegExp(pattern, flags);
    } catch (error) {
      expect(String(error)).toMatch(/may be empty is not supported/);
      continue;
    }
    const [native, linear] = both(pattern, flags, text);
    expect(linear, `${pattern} ${flags} ${JSON.stringify(text)}`).toEqual(native);
    compared++;
  }
  expect(compared).toBeGreaterThan(700);
});

const long = (text: string) => text.repeat(40_000);

// JavaScript's own engine takes minutes to centuries for each.
test.each<[string, string, string, number]>([
  ['(a+)+$', 'g', `${'a'.repeat(50_000)}b`, 0],
  ['(a|aa)+$', 'g', `${'a'.repeat(50_000)}b`, 0],
  ['^(?:.*\\.)?(?:(?:.+)+x)$', '', 'model.layers.1.mlp.up_proj'.repeat(100), 0],
  ['\\s*x', 'gu', long('  '), 0],
  ['\\s+$', 'gu', `${long('  ')}x`, 0],
  ['\\s*x|\\s', 'gu', long('  '), 80_000],
  ['a(?=.*a)', 'gu', long('aa'), 79_999],
  ['a(?!.*b)', 'gu', long('aa'), 80_000],
  ['(?<=a.*)a', 'gu', long('aa'), 79_999],
  ['(?:a?){60}a{60}', 'g', 'a'.repeat(59), 0],
  ['(?:x+x+)+y', 'g', long('x'), 0],
])('%s comes to an end', (pattern, flags, text, matches) => {
  expect([...text.matchAll(new LinearRegExp(pattern, flags.includes('g') ? flags : `${flags}g`))]).toHaveLength(matches);
});

test.each<[string, RegExp]>([
  ['(a*)*', /repetition of what may be empty/],
  ['(?:(?=a)){2,}', /repetition of what may be empty/],
  ['(a)\\1', /reference to a group/],
  ['(?:(?:a{99}){99}){99}', /repetitions are too large/],
  ['a'.repeat(20_001), /more than 20000 characters/],
  ['(', /Unterminated group/],
])('%s is refused', (pattern, message) => {
  expect(() => new LinearRegExp(pattern, 'u')).toThrow(message);
});
