import { TemplateError, type Token, tokenize } from './lexer.js';
import { limits } from './meter.js';
import type { CallArguments, Expression, FilterNode, MacroNode, Statement, Target } from './nodes.js';

/**
 * Jinja's grammar, with the tags that transformers has: those of Jinja itself, `break` and `continue`, and `generation`.
 * https://jinja.palletsprojects.com/en/stable/templates/
 */
export function parseTemplate(source: string): Statement[] {
  return new Parser(tokenize(source)).template();
}

/** Tags that need other templates, which a chat template has not. */
const inheritance = ['block', 'extends', 'include', 'import', 'from'];
const constants = new Map<string, null | boolean>([
  ['true', true],
  ['True', true],
  ['false', false],
  ['False', false],
  ['none', null],
  ['None', null],
]);
const comparisons = ['==', '!=', '<', '<=', '>', '>='];

class Parser {
  private at = 0;
  private depth = 0;
  /** How many loops are around, since the last macro. */
  private loops = 0;

  private readonly tokens: Token[];

  constructor(tokens: Token[]) {
    this.tokens = tokens;
  }

  template(): Statement[] {
    return this.statements([]);
  }

  // Tokens

  private get current(): Token {
    return this.tokens[this.at];
  }

  private fail(message: string): never {
    throw new TemplateError(message, this.current.line);
  }

  private is(type: 'name' | 'operator', ...texts: string[]): boolean {
    return this.current.type === type && texts.includes(this.current.text);
  }

  private skip(type: 'name' | 'operator', text: string): boolean {
    const found = this.is(type, text);
    if (found) this.at++;
    return found;
  }

  private expect(type: Token['type'], text?: string): Token {
    const token = this.current;
    if (token.type !== type || (text !== undefined && token.text !== text)) {
      this.fail(`${describe(token)} where ${text === undefined ? `a ${type}` : `"${text}"`} was expected`);
    }
    this.at++;
    return token;
  }

  private nested<T>(read: () => T): T {
    if (++this.depth > limits.nesting) this.fail(`nested deeper than ${limits.nesting} levels`);
    const result = read();
    this.depth--;
    return result;
  }

  // Statements

  /** Statements up to one of the tags `ends`, which is the current token then; without `ends`, up to the template's end. */
  private statements(ends: readonly string[]): Statement[] {
    const opened = this.current.line;
    const result: Statement[] = [];
    for (;;) {
      const token = this.current;
      if (token.type === 'end') {
        if (ends.length > 0)
          throw new TemplateError(`a block does not end: ${ends.map((end) => `{% ${end} %}`).join(' or ')} is missing`, opened);
        return result;
      }
      this.at++;
      if (token.type === 'text') result.push({ kind: 'text', text: token.text });
      else if (token.type === 'print begin') {
        result.push({ kind: 'print', value: this.tuple() });
        this.expect('print end');
      } else {
        if (this.is('name', ...ends)) return result;
        result.push(...this.nested(() => this.statement()));
        this.expect('block end');
      }
    }
  }

  /** The body of a block, whose end tag is passed. */
  private body(end: string): Statement[] {
    const result = this.part(end);
    this.at++;
    return result;
  }

  private part(...ends: string[]): Statement[] {
    this.skip('operator', ':');
    this.expect('block end');
    return this.statements(ends);
  }

  private statement(): Statement[] {
    const { text: tag, line } = this.expect('name');
    switch (tag) {
      case 'set':
        return [this.set(line)];
      case 'for':
        return [this.loop(line)];
      case 'if':
        return [this.condition()];
      case 'with':
        return [this.withBlock()];
      case 'macro': {
        const name = this.expect('name').text;
        return [{ kind: 'macro', name, macro: this.macro(name, 'endmacro', this.signature(), line) }];
      }
      case 'call':
        return [this.callBlock(line)];
      case 'filter': {
        const filter = this.filter(undefined);
        return [{ kind: 'filter block', filter: this.filters(filter) as FilterNode, body: this.body('endfilter') }];
      }
      case 'generation':
        return [{ kind: 'generation', body: this.apart(() => this.body('endgeneration')), line }];
      case 'print':
        return this.printTag();
      case 'break':
      case 'continue':
        if (this.loops === 0) this.fail(`${tag} outside of a loop`);
        return [{ kind: tag }];
      case 'autoescape':
        if (!this.is('name', 'false', 'False')) this.fail('autoescape is not supported, but for {% autoescape false %}');
        this.at++;
        return [{ kind: 'with', targets: [], values: [], body: this.body('endautoescape') }];
    }
    if (inheritance.includes(tag)) throw new TemplateError(`{% ${tag} %} is not supported: a chat template has no other templates`, line);
    throw new TemplateError(`unknown tag ${JSON.stringify(tag)}`, line);
  }

  /** What is read inside of a function of its own, which no `break` leaves. */
  private apart<T>(read: () => T): T {
    const { loops } = this;
    this.loops = 0;
    const result = read();
    this.loops = loops;
    return result;
  }

  private printTag(): Statement[] {
    const result: Statement[] = [];
    while (this.current.type !== 'block end') {
      if (result.length > 0) this.expect('operator', ',');
      result.push({ kind: 'print', value: this.expression() });
    }
    return result;
  }

  private set(line: number): Statement {
    const target = this.target(true);
    if (this.skip('operator', '=')) return { kind: 'set', target, value: this.tuple() };
    const filter = this.is('operator', '|') ? (this.filters(undefined) as FilterNode) : undefined;
    return { kind: 'set block', target, filter, body: this.body('endset'), line };
  }

  private loop(line: number): Statement {
    const target = this.target(false, 'in');
    if (names(target).includes('loop')) this.fail('a loop cannot assign to its own variable "loop"');
    this.expect('name', 'in');
    const list = this.tuple({ conditional: false, end: 'recursive' });
    const test = this.skip('name', 'if') ? this.expression() : undefined;
    const recursive = this.skip('name', 'recursive');
    this.loops++;
    const body = this.part('endfor', 'else');
    this.loops--;
    const otherwise = this.tokens[this.at++].text === 'else' ? this.body('endfor') : [];
    return { kind: 'for', target, list, test, recursive, body, otherwise, line };
  }

  private condition(): Statement {
    const branches: [Expression, Statement[]][] = [];
    for (;;) {
      const test = this.tuple({ conditional: false });
      branches.push([test, this.part('elif', 'else', 'endif')]);
      const { text } = this.tokens[this.at++];
      if (text === 'endif') return { kind: 'if', branches, otherwise: [] };
      if (text === 'else') return { kind: 'if', branches, otherwise: this.body('endif') };
    }
  }

  private withBlock(): Statement {
    const targets: Target[] = [];
    const values: Expression[] = [];
    while (this.current.type !== 'block end') {
      if (targets.length > 0) this.expect('operator', ',');
      targets.push(this.target(false));
      this.expect('operator', '=');
      values.push(this.expression());
    }
    return { kind: 'with', targets, values, body: this.body('endwith') };
  }

  private signature(): { parameters: string[]; defaults: Expression[] } {
    const parameters: string[] = [];
    const defaults: Expression[] = [];
    this.expect('operator', '(');
    while (!this.is('operator', ')')) {
      if (parameters.length > 0) this.expect('operator', ',');
      parameters.push(this.expect('name').text);
      if (this.skip('operator', '=')) defaults.push(this.expression());
      else if (defaults.length > 0) this.fail('a parameter without a default follows one with a default');
    }
    this.at++;
    return { parameters, defaults };
  }

  private macro(
    name: string | undefined,
    end: string,
    signature: { parameters: string[]; defaults: Expression[] },
    line: number,
  ): MacroNode {
    return { name, ...signature, body: this.apart(() => this.body(end)), line };
  }

  private callBlock(line: number): Statement {
    const signature = this.is('operator', '(') ? this.signature() : { parameters: [], defaults: [] };
    const call = this.expression();
    if (call.kind !== 'call') this.fail('{% call %} needs a call');
    return { kind: 'call block', call, macro: this.macro(undefined, 'endcall', signature, line), line };
  }

  /** What is assigned to: a name, several, or (`attributes`) an attribute of a namespace. */
  private target(attributes: boolean, end?: string): Target {
    const items: Target[] = [];
    let several = false;
    for (;;) {
      if (this.is('operator', ')', '=') || this.current.type === 'block end' || (end !== undefined && this.is('name', end))) break;
      items.push(this.targetItem(attributes));
      if (!this.skip('operator', ',')) break;
      several = true;
    }
    if (items.length === 0) this.fail(`${describe(this.current)} where a name was expected`);
    return several ? { kind: 'tuple', items } : items[0];
  }

  private targetItem(attributes: boolean): Target {
    if (this.skip('operator', '(')) {
      const target = this.nested(() => this.target(false));
      this.expect('operator', ')');
      return target;
    }
    const name = this.expect('name').text;
    if (constants.has(name)) this.fail(`cannot assign to ${name}`);
    if (attributes && this.skip('operator', '.')) return { kind: 'attribute', object: name, name: this.expect('name').text };
    return { kind: 'name', name };
  }

  // Expressions, from the loosest binding to the tightest

  /** Expressions with commas between them are a tuple. */
  private tuple({ conditional = true, end, empty = false }: { conditional?: boolean; end?: string; empty?: boolean } = {}): Expression {
    const { line } = this.current;
    const items: Expression[] = [];
    let several = false;
    for (;;) {
      const { type } = this.current;
      if (type === 'print end' || type === 'block end' || this.is('operator', ')') || (end !== undefined && this.is('name', end))) break;
      items.push(conditional ? this.expression() : this.or());
      if (!this.skip('operator', ',')) break;
      several = true;
    }
    if (!several && items.length === 1) return items[0];
    if (items.length === 0 && !empty) this.fail('an expression is missing');
    return { kind: 'tuple', items, line };
  }

  private expression(): Expression {
    return this.nested(() => {
      let result = this.or();
      while (this.is('name', 'if')) {
        const { line } = this.tokens[this.at++];
        const test = this.or();
        const otherwise = this.skip('name', 'else') ? this.expression() : undefined;
        result = { kind: 'condition', test, yes: result, otherwise, line };
      }
      return result;
    });
  }

  /** `left operator left operator …`, grouped from the left. */
  private chain(type: 'name' | 'operator', operators: readonly string[], next: () => Expression): Expression {
    let left = next();
    while (this.is(type, ...operators)) {
      const { text: operator, line } = this.tokens[this.at++];
      left = { kind: 'binary', operator, left, right: next(), line };
    }
    return left;
  }

  private or(): Expression {
    return this.chain('name', ['or'], () => this.chain('name', ['and'], () => this.not()));
  }

  private not(): Expression {
    if (!this.is('name', 'not')) return this.compare();
    const { line } = this.tokens[this.at++];
    return { kind: 'unary', operator: 'not', input: this.nested(() => this.not()), line };
  }

  private compare(): Expression {
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

  private sum(): Expression {
    return this.chain('operator', ['+', '-'], () => {
      const parts = [this.product()];
      while (this.skip('operator', '~')) parts.push(this.product());
      return parts.length === 1 ? parts[0] : { kind: 'concat', parts, line: parts[0].line };
    });
  }

  private product(): Expression {
    return this.chain('operator', ['*', '/', '//', '%'], () => this.chain('operator', ['**'], () => this.unary(true)));
  }

  private unary(filtered: boolean): Expression {
    const { line } = this.current;
    let result: Expression;
    if (this.is('operator', '-', '+')) {
      const operator = this.tokens[this.at++].text as '-' | '+';
      result = { kind: 'unary', operator, input: this.nested(() => this.unary(false)), line };
    } else result = this.primary();
    result = this.postfix(result);
    return filtered ? this.filters(result) : result;
  }

  private primary(): Expression {
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
  private items<T>(end: string, read: () => T): T[] {
    const result: T[] = [];
    while (!this.is('operator', end)) {
      if (result.length > 0) this.expect('operator', ',');
      if (this.is('operator', end)) break;
      result.push(read());
    }
    this.at++;
    return result;
  }

  private pair(): [Expression, Expression] {
    const key = this.expression();
    this.expect('operator', ':');
    return [key, this.expression()];
  }

  private postfix(start: Expression): Expression {
    let result = start;
    for (;;) {
      const { line } = this.current;
      if (this.skip('operator', '.')) {
        const token = this.current;
        this.at++;
        if (token.type === 'name') result = { kind: 'attribute', object: result, name: token.text, line };
        else if (token.type === 'number' && /^\d/.test(token.text)) {
          result = { kind: 'item', object: result, index: { kind: 'constant', value: token.value ?? 0, line }, line };
        } else this.fail('a name or a number must follow a dot');
      } else if (this.skip('operator', '[')) {
        const items = this.items(']', () => this.subscript());
        const index: Expression = items.length === 1 ? items[0] : { kind: 'tuple', items, line };
        result = { kind: 'item', object: result, index, line };
      } else if (this.is('operator', '(')) result = { kind: 'call', callee: result, args: this.callArguments(), line };
      else return result;
    }
  }

  private subscript(): Expression {
    const { line } = this.current;
    const parts: (Expression | undefined)[] = [undefined, undefined, undefined];
    for (let i = 0; i < 3; i++) {
      if (!this.is('operator', ':', ']', ',')) parts[i] = this.expression();
      if (i === 0 && !this.is('operator', ':')) return parts[0] ?? this.fail('a subscript is missing');
      if (i === 2 || !this.skip('operator', ':')) break;
    }
    return { kind: 'slice', parts, line };
  }

  private callArguments(): CallArguments {
    const args: CallArguments = { positional: [], named: [] };
    this.expect('operator', '(');
    const wrong = () => this.fail('the arguments of a call are out of order');
    this.items(')', () => {
      const next = this.tokens[this.at + 1];
      if (this.skip('operator', '*')) {
        if (args.spread || args.spreadNamed) wrong();
        args.spread = this.expression();
      } else if (this.skip('operator', '**')) {
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
  private filters(input: Expression | undefined): Expression {
    let result = input;
    for (;;) {
      const { line } = this.current;
      if (this.skip('operator', '|')) result = this.filter(result);
      else if (result && this.skip('name', 'is')) result = this.test(result, line);
      else if (result && this.is('operator', '(')) result = { kind: 'call', callee: result, args: this.callArguments(), line };
      else return result ?? this.fail('a filter is missing');
    }
  }

  private dottedName(): string {
    let { text } = this.expect('name');
    while (this.skip('operator', '.')) text += `.${this.expect('name').text}`;
    return text;
  }

  private filter(input: Expression | undefined): FilterNode {
    const { line } = this.current;
    const name = this.dottedName();
    return { kind: 'filter', input, name, args: this.is('operator', '(') ? this.callArguments() : { positional: [], named: [] }, line };
  }

  private test(input: Expression, line: number): Expression {
    const negated = this.skip('name', 'not');
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

function describe(token: Token): string {
  return token.text === ''
    ? `the ${token.type} of the template`.replace(/^the (.*) (begin|end) of the template$/, 'the $2 of a $1')
    : JSON.stringify(token.text);
}

function names(target: Target): string[] {
  return target.kind === 'tuple' ? target.items.flatMap(names) : [target.name];
}
