import { spendText } from './meter.js';
import type { Value } from './values.js';

/** What a rendering knows and writes while it runs. */

/** Names and their values. */
export class Scope {
  private readonly names = new Map<string, Value>();
  /** `reads`: gathers which of the names were read. */
  readonly outer?: Scope;
  private readonly reads?: Set<string>;

  constructor(outer?: Scope, reads?: Set<string>) {
    this.outer = outer;
    this.reads = reads;
  }
  set(name: string, value: Value): void {
    this.names.set(name, value);
  }
  get(name: string): Value | undefined {
    for (let scope: Scope | undefined = this; scope; scope = scope.outer) {
      const value = scope.names.get(name);
      if (value === undefined) continue;
      scope.reads?.add(name);
      return value;
    }
    return undefined;
  }
}

/** Text that is written. */
export class Output {
  text = '';
  write(text: string): void {
    spendText(text.length);
    this.text += text;
  }
}

/** What the statements of a rendering share. */
export interface Rendition {
  /** Where the rendering's own text goes. */
  main: Output;
  /** What generation blocks enclose in it. */
  generated: [number, number][];
  /** A generation block stood where its place in the text is not known: in a macro or in a block whose text is not printed at once. */
  misplaced: boolean;
  generating: boolean;
  /** The line that is evaluated. */
  line: number;
}

/** Where a statement stands. */
export class Frame {
  readonly scope: Scope;
  readonly output: Output;
  readonly rendition: Rendition;

  constructor(scope: Scope, output: Output, rendition: Rendition) {
    this.scope = scope;
    this.output = output;
    this.rendition = rendition;
  }
  inner(output = this.output): Frame {
    return new Frame(new Scope(this.scope), output, this.rendition);
  }
}
