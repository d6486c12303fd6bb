import { constants, describe, ExpressionParser } from './expression-parser.js';
import { TemplateError, tokenize } from './lexer.js';
import type { Expression, FilterNode, MacroNode, Statement, Target } from './nodes.js';

/**
 * Jinja's grammar, with the tags that transformers has: those of Jinja itself, `break` and `continue`, and `generation`.
 * https://jinja.palletsprojects.com/en/stable/templates/
 */
export function parseTemplate(source: string): Statement[] {
  return new Parser(tokenize(source)).template();
}

/** Tags that need other templates, which a chat template has not. */
const inheritance = ['block', 'extends', 'include', 'import', 'from'];
class Parser extends ExpressionParser {
  /** How many loops are around, since the last macro. */
  private loops = 0;

  template(): Statement[] {
    return this.statements([]);
  }

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
    this.accept('operator', ':');
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
    if (this.accept('operator', '=')) return { kind: 'set', target, value: this.tuple() };
    const filter = this.is('operator', '|') ? (this.filters(undefined) as FilterNode) : undefined;
    return { kind: 'set block', target, filter, body: this.body('endset'), line };
  }

  private loop(line: number): Statement {
    const target = this.target(false, 'in');
    if (names(target).includes('loop')) this.fail('a loop cannot assign to its own variable "loop"');
    this.expect('name', 'in');
    const list = this.tuple({ conditional: false, end: 'recursive' });
    const test = this.accept('name', 'if') ? this.expression() : undefined;
    const recursive = this.accept('name', 'recursive');
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
      if (this.accept('operator', '=')) defaults.push(this.expression());
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
      if (!this.accept('operator', ',')) break;
      several = true;
    }
    if (items.length === 0) this.fail(`${describe(this.current)} where a name was expected`);
    return several ? { kind: 'tuple', items } : items[0];
  }

  private targetItem(attributes: boolean): Target {
    if (this.accept('operator', '(')) {
      const target = this.nested(() => this.target(false));
      this.expect('operator', ')');
      return target;
    }
    const name = this.expect('name').text;
    if (constants.has(name)) this.fail(`cannot assign to ${name}`);
    if (attributes && this.accept('operator', '.')) return { kind: 'attribute', object: name, name: this.expect('name').text };
    return { kind: 'name', name };
  }
}

function names(target: Target): string[] {
  return target.kind === 'tuple' ? target.items.flatMap(names) : [target.name];
}
