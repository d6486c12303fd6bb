import { LowrankError, messageOf } from '../util/errors.js';

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
      const { inner, flags } = translate(source);
      expression = new RegExp(around(inner), flags);
    } catch (error) {
      const mend = 'correct the pattern, or list the names';
      throw new LowrankError(`not a regular expression: ${messageOf(error)}`, { place: `${place}: ${source.slice(0, 80)}`, mend });
    }
    compiled.set(key, expression);
  }
  return expression;
}

/**
 * Python's `re` in JavaScript: flags at the beginning, `\A` and `\Z`, named groups and references to them, comments, `(?x)`'s free
 * spacing, a `]` that stands first in a class, and `{,n}`. https://docs.python.org/3/library/re.html#regular-expression-syntax
 */
function translate(source: string): { inner: string; flags: string } {
  const [, letters = ''] = /^\(\?([aiLmsux]+)\)/.exec(source) ?? [];
  if (letters.includes('L')) throw new Error('the flag L depends on a locale');
  const verbose = letters.includes('x');
  const flags = ['i', 'm', 's'].filter((flag) => letters.includes(flag)).join('');
  const rest = letters === '' ? source : source.slice(letters.length + 3);
  let inner = '';
  for (let i = 0; i < rest.length; ) {
    const [text, replacement] = piece(rest.slice(i), verbose);
    inner += replacement;
    i += text.length;
  }
  return { inner, flags };
}

/** The next piece of a pattern, and what it is in JavaScript. */
function piece(rest: string, verbose: boolean): [text: string, replacement: string] {
  const escaped = /^\\[\s\S]/.exec(rest)?.[0];
  if (escaped) return [escaped, { '\\A': '(?<![\\s\\S])', '\\Z': '(?![\\s\\S])' }[escaped] ?? escaped];
  const characterClass = /^\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]/.exec(rest)?.[0];
  if (characterClass) return [characterClass, characterClass.replace(/^(\[\^?)\]/, '$1\\]')];
  const comment = /^\(\?#[^)]*\)/.exec(rest)?.[0] ?? (verbose ? /^(?:\s+|#[^\n]*)/.exec(rest)?.[0] : undefined);
  if (comment) return [comment, ''];
  if (rest.startsWith('(?P<')) return ['(?P<', '(?<'];
  const reference = /^\(\?P=(\w+)\)/.exec(rest);
  if (reference) return [reference[0], `\\k<${reference[1]}>`];
  const unlike = /^(?:\(\?>|\(\?\(|(?:[*+?]|\{\d*,?\d*\})\+)/.exec(rest)?.[0];
  if (unlike) throw new Error(`"${unlike}" (an atomic or conditional group, or a possessive quantifier) has no counterpart here`);
  const upTo = /^\{,(\d+)\}/.exec(rest);
  return upTo ? [upTo[0], `{0,${upTo[1]}}`] : [rest[0], rest[0]];
}
