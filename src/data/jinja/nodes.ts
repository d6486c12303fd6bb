import type { Value } from './values.js';

/** The syntax of a template: what `parser.ts` makes and `compile.ts` turns into functions. `line` counts from 1. */

export type Expression =
  | { kind: 'constant'; value: Value; line: number }
  | { kind: 'name'; name: string; line: number }
  | { kind: 'list' | 'tuple'; items: Expression[]; line: number }
  | { kind: 'dict'; pairs: [key: Expression, value: Expression][]; line: number }
  | { kind: 'attribute'; object: Expression; name: string; line: number }
  | { kind: 'item'; object: Expression; index: Expression; line: number }
  | { kind: 'slice'; parts: (Expression | undefined)[]; line: number }
  | { kind: 'call'; callee: Expression; args: CallArguments; line: number }
  | FilterNode
  | { kind: 'test'; input: Expression; name: string; args: CallArguments; line: number }
  | { kind: 'unary'; operator: 'not' | '-' | '+'; input: Expression; line: number }
  | { kind: 'binary'; operator: string; left: Expression; right: Expression; line: number }
  | { kind: 'concat'; parts: Expression[]; line: number }
  | { kind: 'compare'; first: Expression; rest: [operator: string, value: Expression][]; line: number }
  | { kind: 'condition'; test: Expression; yes: Expression; otherwise?: Expression; line: number };

/** `input` is absent where a block is filtered. */
export interface FilterNode {
  kind: 'filter';
  input?: Expression;
  name: string;
  args: CallArguments;
  line: number;
}

export interface CallArguments {
  positional: Expression[];
  named: [name: string, value: Expression][];
  /** `*list` and `**dict`. */
  spread?: Expression;
  spreadNamed?: Expression;
}

export type Target =
  | { kind: 'name'; name: string }
  | { kind: 'attribute'; object: string; name: string }
  | { kind: 'tuple'; items: Target[] };

/** The parameters and body of a macro, or of the block that a `call` passes. */
export interface MacroNode {
  name?: string;
  parameters: string[];
  /** Of the last parameters. */
  defaults: Expression[];
  body: Statement[];
  line: number;
}

export type Statement =
  | { kind: 'text'; text: string }
  | { kind: 'print'; value: Expression }
  | { kind: 'set'; target: Target; value: Expression }
  | { kind: 'set block'; target: Target; filter?: FilterNode; body: Statement[]; line: number }
  | {
      kind: 'for';
      target: Target;
      list: Expression;
      test?: Expression;
      recursive: boolean;
      body: Statement[];
      otherwise: Statement[];
      line: number;
    }
  | { kind: 'if'; branches: [test: Expression, body: Statement[]][]; otherwise: Statement[] }
  | { kind: 'with'; targets: Target[]; values: Expression[]; body: Statement[] }
  | { kind: 'macro'; name: string; macro: MacroNode }
  | { kind: 'call block'; call: Expression & { kind: 'call' }; macro: MacroNode; line: number }
  | { kind: 'filter block'; filter: FilterNode; body: Statement[] }
  | { kind: 'generation'; body: Statement[]; line: number }
  | { kind: 'break' | 'continue' };
