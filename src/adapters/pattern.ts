import { LowrankError, messageOf } from '../util/errors.js';
import { LinearRegExp } from '../util/linear-regexp.js';

const compiled = new Map<string, RegExp>();

/**
 * Compiles a regular expression of Python's that came from a recipe or a file; `around` puts more of one around it, in JavaScript's form.
 * Throws a LowrankError with `place` where it is none, or has what JavaScript cannot say.
 */
export function pythonPattern(source: string, place: string, around: (inner: string) => string = (inner) => inner): RegExp {
  const key = around(source);
  let expression = compiled.get(key);
  if (!expression) {
    try {
      expression = new LinearRegExp(around(translate(source)));
    } catch (error) {
      const mend = 'correct the pattern, or list the names';
      throw new LowrankError(`not a regular expression: ${messageOf(error)}`, { place: `${place}: ${source.slice(0, 80)}`, mend });
    }
    compiled.set(key, expression);
  }
  return expression;
}

/** The flags that hold at a place of a pattern. */
interface Flags {
  i: boolean;
  m: boolean;
  s: boolean;
  x: boolean;
}

/** The flags of the groups that are open, the innermost last. */
type Groups = [Flags, ...Flags[]];

/**
 * Python's `re` in JavaScript: flags at the beginning and of groups, `\A` and `\Z`, named groups, comments, `(?x)`'s
 * free spacing, a `]` that stands first in a class, and `{,n}`. Flags are written out, since JavaScript has none for a part of a pattern.
 * https://docs.python.org/3/library/re.html#regular-expression-syntax
 */
function translate(source: string): string {
  const [whole = '', letters = ''] = /^\(\?([a-zA-Z]+)\)/.exec(source) ?? [];
  const groups: Groups = [withFlags({ i: false, m: false, s: false, x: false }, letters, '')];
  let inner = '';
  for (let i = whole.length; i < source.length; ) {
    const [text, replacement] = piece(source.slice(i), groups);
    inner += replacement;
    i += text.length;
  }
  return inner;
}

function withFlags(flags: Flags, on: string, off: string): Flags {
  if (/L/.test(on)) throw new Error('the flag L depends on a locale');
  const wrong = /[^aimsux]/.exec(on + off);
  if (wrong) throw new Error(`Python has no flag ${wrong[0]}`);
  const changed = { ...flags };
  for (const flag of ['i', 'm', 's', 'x'] as const) {
    if (on.includes(flag)) changed[flag] = true;
    if (off.includes(flag)) changed[flag] = false;
  }
  return changed;
}

/** The next piece of a pattern, and what it is in JavaScript; opens and closes `groups`. */
function piece(rest: string, groups: Groups): [text: string, replacement: string] {
  const flags = groups.at(-1)!;
  const escaped = /^\\(?:x[\da-fA-F]{2}|u[\da-fA-F]{4}|[\s\S])/.exec(rest)?.[0];
  if (escaped) return [escaped, escapeOf(escaped, flags)];
  const characterClass = /^\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]/.exec(rest)?.[0];
  if (characterClass) {
    const inner = characterClass.slice(0, -1).replace(/^(\[\^?)\]/, '$1\\]');
    return [characterClass, `${inner}${flags.i ? otherCasesOfClass(inner) : ''}]`];
  }
  const comment = /^\(\?#[^)]*\)/.exec(rest)?.[0] ?? (flags.x ? /^(?:\s+|#[^\n]*)/.exec(rest)?.[0] : undefined);
  if (comment) return [comment, ''];
  const unlike = /^(?:\(\?>|\(\?\(|\(\?P=|(?:[*+?]|\{\d*,?\d*\})\+)/.exec(rest)?.[0];
  if (unlike)
    throw new Error(`"${unlike}" (an atomic or conditional group, a reference to one, or a possessive quantifier) has no counterpart here`);
  const upTo = /^\{,(\d+)\}/.exec(rest);
  if (upTo) return [upTo[0], `{0,${upTo[1]}}`];
  if (rest[0] === '(') return open(rest, groups);
  if (rest[0] === ')' && groups.length > 1) groups.pop();
  return [rest[0], character(rest[0], flags)];
}

function open(rest: string, groups: Groups): [text: string, replacement: string] {
  const [text, on, off = ''] = /^\(\?([a-zA-Z]*)(?:-([a-zA-Z]+))?:/.exec(rest) ?? ['('];
  groups.push(on === undefined ? groups.at(-1)! : withFlags(groups.at(-1)!, on, off));
  if (on !== undefined) return [text, '(?:'];
  if (/^\(\?[a-zA-Z-]+\)/.test(rest)) throw new Error('flags for a whole pattern stand at its beginning, in Python too');
  return rest.startsWith('(?P<') ? ['(?P<', '(?<'] : ['(', '('];
}

/** A character outside of classes: the dot and the anchors mean what they do in Python, whose lines end with \n alone. */
function character(text: string, { i, m, s }: Flags): string {
  if (text === '.') return s ? '[\\s\\S]' : '[^\\n]';
  if (text === '^') return m ? '(?<![^\\n])' : '^';
  if (text === '$') return m ? '(?![^\\n])' : '(?=\\n?(?![\\s\\S]))';
  const cases = i ? casesOf(text) : [];
  return cases.length > 1 ? `[${cases.join('')}]` : text;
}

function escapeOf(escaped: string, flags: Flags): string {
  if (escaped === '\\A') return '(?<![\\s\\S])';
  if (escaped === '\\Z') return '(?![\\s\\S])';
  if (escaped.length === 2 || !flags.i) return escaped;
  return character(String.fromCharCode(Number.parseInt(escaped.slice(2), 16)), flags);
}

/** What a class lacks of the other cases of its characters; `inner` is `[` or `[^` and what follows. */
function otherCasesOfClass(inner: string): string {
  const members = inner.replace(/^\[\^?/, '').replace(/\\(?![xu])./gs, (escaped) => (/\w/.test(escaped[1]) ? '' : escaped));
  let others = '';
  for (const [, from, to = from] of members.matchAll(/(\\.[\da-fA-F]*|[^\\])(?:-(\\.[\da-fA-F]*|[^\\]))?/gs)) {
    const [first, last] = [from, to].map((text) =>
      text.length > 2 ? Number.parseInt(text.slice(2), 16) : text.charCodeAt(text.length - 1),
    );
    for (let code = first; code <= last; code++)
      for (const text of casesOf(String.fromCharCode(code))) if (text.charCodeAt(0) < first || text.charCodeAt(0) > last) others += text;
  }
  return others;
}

const casesOf = (text: string): string[] =>
  [...new Set([text, text.toLowerCase(), text.toUpperCase()])].filter(({ length }) => length === 1);
