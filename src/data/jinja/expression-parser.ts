import { TemplateError, type Token } from './lexer.js';
import { limits } from './meter.js';
import type { CallArguments, Expression, FilterNode } from './nodes.js';

/** Names that are values. */
export const constants = new Map<string, null | boolean>([
  ['true', true],
  ['True', true],
  ['false', false],
  ['False', false],
  ['none', null],
  ['None', null],
]);
const comparisons = ['==', '!=', '<', '<=', '>', '>='];

/** Jinja's expressions, and the tokens that `parser.ts` reads too. */
export class ExpressionParser {
  protected at = 0;
  private depth = 0;
  protected readonly tokens: Token[];

  constructor(tokens: Token[]) {
    this.tokens = tokens;
  }

  protected get current(): Token {
    return this.tokens[this.at];
  }

  protected fail(message: string): never {
    throw new TemplateError(message, this.current.line);
  }

  protected is(type: 'name' | 'operator', ...texts: string[]): boolean {
    return this.current.type === type && texts.includes(this.current.text);
  }

  protected accept(type: 'name' | 'operator', text: string): boolean {
    const found = this.is(type, text);
    if (found) this.at++;
    return found;
  }

  protected expect(type: Token['type'], text?: string): Token {
    const token = this.current;
    if (token.type !== type || (text !== undefined && token.text !== text)) {
      this.fail(`${describe(token)} where ${text === undefined ? `a ${type}` : `"${text}"`} was expected`);
    }
    this.at++;
    return token;
  }

  protected nested<T>(read: () => T): T {
    if (++this.depth > limits.nesting) this.fail(`nested deeper than ${limits.nesting} levels`);
    const result = read();
    this.depth--;
    return result;
  }

  // Expressions, from the loosest binding to the tightest

  /** Expressions with commas between them are a tuple. */
  protected tuple({ conditional = true, end, empty = false }: { conditional?: boolean; end?: string; empty?: boolean } = {}): Expression {
    const { line } = this.current;
    const items: Expression[] = [];
    let several = false;
    for (;;) {
      const { type } = this.current;
      if (type === 'print end' || type === 'block end' || this.is('operator', ')') || (end !== undefined && this.is('name', end))) break;
      items.push(conditional ? this.expression() : this.or());
      if (!this.accept('operator', ',')) break;
      several = true;
    }
    if (!several && items.length === 1) return items[0];
    if (items.length === 0 && !empty) this.fail('an expression is missing');
    return { kind: 'tuple', items, line };
  }

  protected expression(): Expression {
    return this.nested(() => {
      let result = this.or();
      while (this.is('name', 'if')) {
        const { line } = this.tokens[this.at++];
        const test = this.or();
        const otherwise = this.accept('name', 'else') ? this.expression() : undefined;
        result = { kind: 'condition', test, yes: result, otherwise, line };
      }
      return result;
    });
  }

  /** `left operator left operator …`, grouped from the left. */
  protected chain(type: 'name' | 'operator', operators: readonly string[], next: () => Expression): Expression {
    let left = next();
    while (this.is(type, ...operators)) {
      const { text: operator, line } = this.tokens[this.at++];
      left = { kind: 'binary', operator, left, right: next(), line };
    }
    return left;
  }

  protected or(): Expression {
    return this.chain('name', ['or'], () => this.chain('name', ['and'], () => this.not()));
  }

  protected not(): Expression {
    if (!this.is('name', 'not')) return this.compare();
    const { line } = this.tokens[this.at++];
    return { kind: 'unary', operator: 'not', input: this.nested(() => this.not()), line };
  }

  protected compare(): Expression {
    const { line } = this.current;
    const first = this.sum();
    const rest: [string, Expression][] = [];
    for (;;) {
      const next = this.tokens[this.at + 1];
      if (this.is('operator', ...comparisons) || this.is('name', 'in')) rest.push([this.tokens[this.at++].text, this.sum()]);
      else if (this.is('name', 'not') && next.type === 'name' && next.text === 'in') {
        this.at += 2;
        rest.push(['not in', this.sum()]);
      } else return rest.length === 0 ? first : { kind: 'compare', first, rest, line };
    }
  }

  protected sum(): Expression {
    return this.chain('operator', ['+', '-'], () => {
      const parts = [this.product()];
      while (this.accept('operator', '~')) parts.push(this.product());
      return parts.length === 1 ? parts[0] : { kind: 'concat', parts, line: parts[0].line };
    });
  }

  protected product(): Expression {
    return this.chain('operator', ['*', '/', '//', '%'], () => this.chain('operator', ['**'], () => this.unary(true)));
  }

  protected unary(filtered: boolean): Expression {
    const { line } = this.current;
    let result: Expression;
    if (this.is('operator', '-', '+')) {
      const operator = this.tokens[this.at++].text as '-' | '+';
      result = { kind: 'unary', operator, input: this.nested(() => this.unary(false)), line };
    } else result = this.primary();
    result = this.postfix(result);
    return filtered ? this.filters(result) : result;
  }

  protected primary(): Expression {
    const token = this.current;
    const { line } = token;
    this.at++;
    switch (token.type) {
      case 'name': {
        const value = constants.get(token.text);
        return value === undefined ? { kind: 'name', name: token.text, line } : { kind: 'constant', value, line };
      }
      case 'number':
        return { kind: 'constant', value: token.value ?? 0, line };
      case 'string': {
        let { text } = token;
        while (this.current.type === 'string') text += this.tokens[this.at++].text;
        return { kind: 'constant', value: text, line };
      }
      case 'operator':
        if (token.text === '(') {
          const inner = this.nested(() => this.tuple({ empty: true }));
          this.expect('operator', ')');
          return inner;
        }
        if (token.text === '[') return { kind: 'list', items: this.items(']', () => this.expression()), line };
        if (token.text === '{') return { kind: 'dict', pairs: this.items('}', () => this.pair()), line };
    }
    this.at--;
    return this.fail(`unexpected ${describe(token)}`);
  }

  /** Items with commas between them, up to a closing bracket. */
  protected items<T>(end: string, read: () => T): T[] {
    const result: T[] = [];
    while (!this.is('operator', end)) {
      if (result.length > 0) this.expect('operator', ',');
      if (this.is('operator', end)) break;
      result.push(read());
    }
    this.at++;
    return result;
  }

  protected pair(): [Expression, Expression] {
    const key = this.expression();
    this.expect('operator', ':');
    return [key, this.expression()];
  }

  protected postfix(start: Expression): Expression {
    let result = start;
    for (;;) {
      const { line } = this.current;
      if (this.accept('operator', '.')) {
        const token = this.current;
        this.at++;
        if (token.type === 'name') result = { kind: 'attribute', object: result, name: token.text, line };
        else if (token.type === 'number' && /^\d/.test(token.text)) {
          result = { kind: 'item', object: result, index: { kind: 'constant', value: token.value ?? 0, line }, line };
        } else this.fail('a name or a number must follow a dot');
      } else if (this.accept('operator', '[')) {
        const items = this.items(']', () => this.subscript());
        const index: Expression = items.length === 1 ? items[0] : { kind: 'tuple', items, line };
        result = { kind: 'item', object: result, index, line };
      } else if (this.is('operator', '(')) result = { kind: 'call', callee: result, args: this.callArguments(), line };
      else return result;
    }
  }

  protected subscript(): Expression {
    const { line } = this.current;
    const parts: (Expression | undefined)[] = [undefined, undefined, undefined];
    for (let i = 0; i < 3; i++) {
      if (!this.is('operator', ':', ']', ',')) parts[i] = this.expression();
      if (i === 0 && !this.is('operator', ':')) return parts[0] ?? this.fail('a subscript is missing');
      if (i === 2 || !this.accept('operator', ':')) break;
    }
    return { kind: 'slice', parts, line };
  }

  protected callArguments(): CallArguments {
    const args: CallArguments = { positional: [], named: [] };
    this.expect('operator', '(');
    const wrong = () => this.fail('the arguments of a call are out of order');
    this.items(')', () => {
      const next = this.tokens[this.at + 1];
      if (this.accept('operator', '*')) {
        if (args.spread || args.spreadNamed) wrong();
        args.spread = this.expression();
      } else if (this.accept('operator', '**')) {
        if (args.spreadNamed) wrong();
        args.spreadNamed = this.expression();
      } else if (this.current.type === 'name' && next.type === 'operator' && next.text === '=') {
        if (args.spreadNamed) wrong();
        const name = this.current.text;
        this.at += 2;
        args.named.push([name, this.expression()]);
      } else {
        if (args.spread || args.spreadNamed || args.named.length > 0) wrong();
        args.positional.push(this.expression());
      }
    });
    return args;
  }

  /** Filters, tests and calls behind an expression. */
  protected filters(input: Expression | undefined): Expression {
    let result = input;
    for (;;) {
      const { line } = this.current;
      if (this.accept('operator', '|')) result = this.filter(result);
      else if (result && this.accept('name', 'is')) result = this.test(result, line);
      else if (result && this.is('operator', '(')) result = { kind: 'call', callee: result, args: this.callArguments(), line };
      else return result ?? this.fail('a filter is missing');
    }
  }

  protected dottedName(): string {
    let { text } = this.expect('name');
    while (this.accept('operator', '.')) text += `.${this.expect('name').text}`;
    return text;
  }

  protected filter(input: Expression | undefined): FilterNode {
    const { line } = this.current;
    const name = this.dottedName();
    return { kind: 'filter', input, name, args: this.is('operator', '(') ? this.callArguments() : { positional: [], named: [] }, line };
  }

  protected test(input: Expression, line: number): Expression {
    const negated = this.accept('name', 'not');
    const name = this.dottedName();
    let args: CallArguments = { positional: [], named: [] };
    if (this.is('operator', '(')) args = this.callArguments();
    else if (['name', 'string', 'number'].includes(this.current.type) || this.is('operator', '[', '{')) {
      if (!this.is('name', 'else', 'or', 'and')) {
        if (this.is('name', 'is')) this.fail('tests cannot follow each other');
        args.positional.push(this.postfix(this.primary()));
      }
    }
    const test: Expression = { kind: 'test', input, name, args, line };
    return negated ? { kind: 'unary', operator: 'not', input: test, line } : test;
  }
}

export function describe(token: Token): string {
  return token.text === ''
    ? `the ${token.type} of the template`.replace(/^the (.*) (begin|end) of the template$/, 'the $2 of a $1')
    : JSON.stringify(token.text);
}
