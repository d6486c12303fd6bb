import { made, spendText } from './meter.js';

/** Texts as Python has them: their units are code points, and white space is what `str.isspace` says, not what `trim` takes. */

/** The inside of a character class: Python's white space. */
export const space = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const spaces = new RegExp(`^[${space}]$`);
const surrogate = /[\ud800-\udfff]/;

export function isSpace(character: string): boolean {
  return isSpaceCode(character.charCodeAt(0));
}

function isSpaceCode(code: number): boolean {
  if (code < 0x80) return code === 0x20 || (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x1f);
  return spaces.test(String.fromCharCode(code));
}

/** The code points of a text. */
export function pointsOf(text: string): string[] {
  spendText(text.length);
  return surrogate.test(text) ? Array.from(text) : text.split('');
}

/** How many code points a text has. */
export function pointCount(text: string): number {
  spendText(text.length);
  if (!surrogate.test(text)) return text.length;
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** `text[start:stop]` in code points, 0 ≤ start ≤ stop. */
export function sliceText(text: string, start: number, stop: number): string {
  spendText(text.length);
  if (!surrogate.test(text)) return text.slice(start, stop);
  const from = unitsOf(text, start, 0);
  return text.slice(from, unitsOf(text, stop - start, from));
}

/** Where the next so many code points from the unit `from` on end. */
function unitsOf(text: string, points: number, from: number): number {
  let at = from;
  for (let count = 0; count < points && at < text.length; count++) at += (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1;
  return at;
}

/** Strips white space, or the characters of `set`, from the start (`left`) and the end (`right`). */
export function strip(text: string, left: boolean, right: boolean, set?: string): string {
  let start = 0;
  let end = text.length;
  if (set === undefined) {
    spendText(text.length);
    while (left && start < end && isSpaceCode(text.charCodeAt(start))) start++;
    while (right && end > start && isSpaceCode(text.charCodeAt(end - 1))) end--;
    return text.slice(start, end);
  }
  const characters = new Set(set);
  // Each character is cut out to look it up.
  spendText(4 * (text.length + set.length));
  const width = (at: number) => (at >= 0 && (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1);
  while (left && start < end && characters.has(text.slice(start, start + width(start)))) start += width(start);
  while (right && end > start && characters.has(text.slice(end - width(end - 2), end))) end -= width(end - 2);
  return text.slice(start, end);
}

/** Python's order of texts, by code points: in UTF-16 units a pair of surrogates would come before U+E000. */
export function compareText(a: string, b: string): number {
  if (a === b) return 0;
  if (!surrogate.test(a) && !surrogate.test(b)) return a < b ? -1 : 1;
  const [one, other] = [pointsOf(a), pointsOf(b)];
  for (let i = 0; i < Math.min(one.length, other.length); i++)
    if (one[i] !== other[i]) return (one[i].codePointAt(0) ?? 0) - (other[i].codePointAt(0) ?? 0);
  return one.length - other.length;
}

const shortEscapes: Record<string, string> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\\': '\\\\' };

function escapePoint(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  if (code <= 0xff) return `\\x${code.toString(16).padStart(2, '0')}`;
  return code <= 0xffff ? `\\u${code.toString(16).padStart(4, '0')}` : `\\U${code.toString(16).padStart(8, '0')}`;
}

/** `repr(text)`: quoted as Python quotes, with everything that cannot be printed escaped; `ascii` escapes all beyond ASCII. */
export function quoteText(text: string, ascii = false): string {
  spendText(text.length);
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const awkward = ascii ? /[^ -~]|[\\'"]/gu : /[\\'"]|(?! )[\p{C}\p{Z}]/gu;
  const body = text.replace(awkward, (character) => {
    if (character === "'" || character === '"') return character === quote ? `\\${character}` : character;
    return shortEscapes[character] ?? escapePoint(character);
  });
  return made(quote + body + quote);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: Python ends lines at these, too
const lineEnd = /(\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029])/;

/** `str.splitlines`. */
export function splitLines(text: string, keepEnds = false): string[] {
  spendText(text.length);
  const lines = text.split(lineEnd);
  const result: string[] = [];
  for (let i = 0; i < lines.length; i += 2) {
    if (i + 1 < lines.length) result.push(lines[i] + (keepEnds ? lines[i + 1] : ''));
    else if (lines[i] !== '') result.push(lines[i]);
  }
  return result;
}

const digraphs = 'ǄǅǆǇǈǉǊǋǌǱǲǳ';

/** A character at the beginning of a word: a digraph or ligature has only its first letter in upper case. */
export function titleCase(character: string): string {
  const digraph = character === '' ? -1 : digraphs.indexOf(character);
  if (digraph >= 0) return digraphs[digraph - (digraph % 3) + 1];
  const [first = '', ...rest] = character.toUpperCase();
  return first + rest.join('').toLowerCase();
}
