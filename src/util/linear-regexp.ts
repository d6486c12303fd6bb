import { type AST, RegExpParser } from '@eslint-community/regexpp';

/** Longer patterns than these occur nowhere: the largest of a tokenizer that is known has 3,000 characters. */
const maxLength = 20_000;
const maxInstructions = 50_000;

/**
 * A regular expression that came from outside: it matches what RegExp matches, in time that grows with the length of the text alone,
 * whatever the pattern. JavaScript's own engine tries again and again what has failed before, so that `(a+)+$` does not come to an end.
 * This one notes where in the text which part of the pattern has failed, and tries nothing twice, also not from one match to the next
 * (Davis, Servant, Lee 2021, "Using selective memoization to defeat regular expression denial of service"). All that calls `exec`,
 * such as `matchAll`, `replaceAll` and `split`, takes it for a RegExp.
 *
 * What a part matches may depend on its place alone: references to groups and repetitions of what may be empty are refused. Of groups
 * only those with a name are kept.
 */
export class LinearRegExp extends RegExp {
  private readonly program: Program;
  private matcher?: Matcher;

  /** Throws an Error that says what is wrong with the pattern. */
  constructor(pattern: string | RegExp, flags?: string) {
    if (String(pattern).length > maxLength) throw new Error(`it has more than ${maxLength} characters`);
    super(pattern, flags);
    this.program = pattern instanceof LinearRegExp ? pattern.program : compile(this);
  }

  override exec(text: string): RegExpExecArray | null {
    const moves = this.global || this.sticky;
    if (this.matcher?.text !== text) this.matcher = new Matcher(this.program, text);
    const found = this.matcher.search(moves ? this.lastIndex : 0, this.sticky);
    if (!found) {
      this.matcher = undefined;
      if (moves) this.lastIndex = 0;
      return null;
    }
    if (moves) this.lastIndex = found.end;
    const groups = this.program.groups.map(([name, slot]) => [name, found.group(slot)]);
    const match = [text.slice(found.start, found.end)] as unknown as RegExpExecArray;
    return Object.assign(match, { index: found.start, input: text, groups: groups.length > 0 ? Object.fromEntries(groups) : undefined });
  }
}

/** What an instruction does; `a` and `b` are its operands. */
const op = {
  /** Takes a character of set a. */
  forward: 0,
  /** The same before the place, inside of lookbehinds. */
  backward: 1,
  /** Goes on at a and, where that fails, at b. */
  split: 2,
  jump: 3,
  /** Asks whether look a holds. */
  look: 4,
  /** Asks for an edge: the test a. */
  edge: 5,
  /** Notes the place in slot a. */
  note: 6,
  done: 7,
} as const;

/** A lookahead or lookbehind: its program begins at `start` and ends with `done`. */
interface Look {
  start: number;
  negate: boolean;
}

interface Program {
  code: number[];
  a: number[];
  b: number[];
  sets: CharacterSet[];
  looks: Look[];
  edges: ((text: string, at: number) => boolean)[];
  /** Names of groups, and the first of their two slots. */
  groups: [string, number][];
  unicode: boolean;
}

/** Which characters a part of a pattern takes: asked of JavaScript's engine once for each, and kept in pages of 256. */
class CharacterSet {
  private readonly native: RegExp;
  private readonly pages: Uint8Array[] = [];

  constructor(part: string, flags: string) {
    this.native = new RegExp(`^(?:${part})$`, flags);
  }
  has(point: number): boolean {
    const page = (this.pages[point >> 8] ??= new Uint8Array(256));
    const at = point & 255;
    if (page[at] === 0) page[at] = this.native.test(String.fromCodePoint(point)) ? 2 : 1;
    return page[at] === 2;
  }
}

/** The program of a pattern that JavaScript has found to be one. */
function compile(pattern: RegExp): Program {
  const { source, flags, unicode, multiline } = pattern;
  const tree = new RegExpParser({ ecmaVersion: 2025 }).parsePattern(source, 0, source.length, { unicode });
  const program: Program = { code: [], a: [], b: [], sets: [], looks: [], edges: [], groups: [], unicode };
  const setFlags = flags.replace(/[^imsu]/g, '');
  const known = new Map<string, number>();
  const emit = (code: number, a = 0, b = 0): number => {
    if (program.code.length >= maxInstructions) throw new Error('its repetitions are too large');
    program.a.push(a);
    program.b.push(b);
    return program.code.push(code) - 1;
  };
  const here = () => program.code.length;

  const alternatives = (branches: readonly AST.Alternative[], back: boolean): void => {
    const ends: number[] = [];
    for (const [i, { elements }] of branches.entries()) {
      const split = i < branches.length - 1 ? emit(op.split, here() + 1) : undefined;
      for (const each of back ? elements.toReversed() : elements) element(each, back);
      if (split === undefined) break;
      ends.push(emit(op.jump));
      program.b[split] = here();
    }
    for (const end of ends) program.a[end] = here();
  };

  const element = (node: AST.Element, back: boolean): void => {
    switch (node.type) {
      case 'Character':
      case 'CharacterClass':
      case 'CharacterSet': {
        const set = known.get(node.raw) ?? program.sets.push(new CharacterSet(node.raw, setFlags)) - 1;
        known.set(node.raw, set);
        emit(back ? op.backward : op.forward, set);
        return;
      }
      case 'Group':
        if (node.modifiers) throw new Error('flags of a group are not supported');
        alternatives(node.alternatives, back);
        return;
      case 'CapturingGroup': {
        const slot = node.name === null || back ? undefined : 2 * (program.groups.push([node.name, 2 * program.groups.length]) - 1);
        if (slot !== undefined) emit(op.note, slot);
        alternatives(node.alternatives, back);
        if (slot !== undefined) emit(op.note, slot + 1);
        return;
      }
      case 'Quantifier':
        repetition(node, back);
        return;
      case 'Assertion':
        assertion(node);
        return;
      default:
        throw new Error('a reference to a group is not supported, since it may take for ever');
    }
  };

  const repetition = ({ min, max, greedy, element: body }: AST.Quantifier, back: boolean): void => {
    if (max > min && mayBeEmpty(body)) throw new Error('a repetition of what may be empty is not supported, since it may take for ever');
    /** A choice between the body, which follows, and what comes behind it. */
    const choice = () => emit(op.split, greedy ? here() + 1 : 0, greedy ? 0 : here() + 1);
    const leave = (split: number) => ((greedy ? program.b : program.a)[split] = here());
    for (let i = 0; i < min; i++) element(body, back);
    if (max === Number.POSITIVE_INFINITY) {
      const split = choice();
      element(body, back);
      emit(op.jump, split);
      leave(split);
      return;
    }
    const splits: number[] = [];
    for (let i = min; i < max; i++) {
      splits.push(choice());
      element(body, back);
    }
    splits.forEach(leave);
  };

  const assertion = (node: AST.Assertion): void => {
    if (node.kind === 'lookahead' || node.kind === 'lookbehind') {
      const skip = emit(op.jump);
      const look = program.looks.push({ start: here(), negate: node.negate }) - 1;
      alternatives(node.alternatives, node.kind === 'lookbehind');
      emit(op.done);
      program.a[skip] = here();
      emit(op.look, look);
      return;
    }
    const lineBreak = (text: string, at: number) => multiline && /[\n\r\u2028\u2029]/.test(text[at]);
    const isWord = (text: string, at: number) => /\w/.test(text[at] ?? ' ');
    if (node.kind === 'start') program.edges.push((text, at) => at === 0 || lineBreak(text, at - 1));
    else if (node.kind === 'end') program.edges.push((text, at) => at === text.length || lineBreak(text, at));
    else {
      const { negate } = node as AST.WordBoundaryAssertion;
      program.edges.push((text, at) => (isWord(text, at - 1) !== isWord(text, at)) !== negate);
    }
    emit(op.edge, program.edges.length - 1);
  };

  alternatives(tree.alternatives, false);
  emit(op.done);
  return program;
}

function mayBeEmpty(node: AST.Element): boolean {
  if (node.type === 'Assertion') return true;
  if (node.type === 'Quantifier') return node.min === 0 || mayBeEmpty(node.element);
  if (node.type !== 'Group' && node.type !== 'CapturingGroup') return node.type === 'Backreference';
  return node.alternatives.some(({ elements }) => elements.every(mayBeEmpty));
}

/** Places of a text, a bit each. */
class Places {
  private readonly bits: Uint8Array;

  constructor(length: number) {
    this.bits = new Uint8Array((length >> 3) + 1);
  }
  add(place: number): void {
    this.bits[place >> 3] |= 1 << (place & 7);
  }
  has(place: number): boolean {
    return (this.bits[place >> 3] & (1 << (place & 7))) !== 0;
  }
}

/** Looks for a program in one text, and remembers what has failed there. */
class Matcher {
  readonly text: string;
  private readonly program: Program;
  /** By split: where it is known that nothing behind it matches; of looks also where something does. */
  private readonly failed: Places[] = [];
  private readonly held: Places[] = [];
  /**
   * What is left to try, two numbers each: the instruction of a split, doubled, and its place; plus 1 where both of its ways are being
   * tried. Or −1 − a slot, and what was in it.
   */
  private stack = new Int32Array(64);
  private top = 0;
  private slots: number[] = [];

  constructor(program: Program, text: string) {
    this.program = program;
    this.text = text;
  }

  /** The first match from a place on, or with `only` at this place. */
  search(from: number, only: boolean): { start: number; end: number; group(slot: number): string | undefined } | undefined {
    for (let start = from; start <= this.text.length; start += this.program.unicode && this.pointAt(start) > 0xffff ? 2 : 1) {
      this.top = 0;
      this.slots = [];
      const end = this.run(0, start, false);
      if (end >= 0) {
        const { slots, text } = this;
        return { start, end, group: (slot) => (slots[slot + 1] === undefined ? undefined : text.slice(slots[slot], slots[slot + 1])) };
      }
      if (only) return undefined;
    }
    return undefined;
  }

  /** Where the program from `at` on comes to `done`, or −1. Of a look it is enough that it does. */
  private run(at: number, place: number, looking: boolean): number {
    const { code, a, b, sets, looks, edges } = this.program;
    const base = this.top;
    for (;;) {
      let fails = false;
      switch (code[at]) {
        case op.forward: {
          const point = place < this.text.length ? this.pointAt(place) : -1;
          if (point >= 0 && sets[a[at]].has(point)) {
            place += point > 0xffff ? 2 : 1;
            at++;
          } else fails = true;
          break;
        }
        case op.backward: {
          const point = place > 0 ? this.pointBefore(place) : -1;
          if (point >= 0 && sets[a[at]].has(point)) {
            place -= point > 0xffff ? 2 : 1;
            at++;
          } else fails = true;
          break;
        }
        case op.split:
          if (this.held[at]?.has(place)) return this.hold(base, place);
          if (this.failed[at]?.has(place)) fails = true;
          else {
            this.push(2 * at, place);
            at = a[at];
          }
          break;
        case op.jump:
          at = a[at];
          break;
        case op.look:
          if (this.run(looks[a[at]].start, place, true) >= 0 !== looks[a[at]].negate) at++;
          else fails = true;
          break;
        case op.edge:
          if (edges[a[at]](this.text, place)) at++;
          else fails = true;
          break;
        case op.note:
          this.push(-1 - a[at], this.slots[a[at]] ?? -1);
          this.slots[a[at]] = place;
          at++;
          break;
        default:
          return looking ? this.hold(base, place) : place;
      }
      if (!fails) continue;
      // Goes back to the last split that has another way.
      for (;;) {
        if (this.top === base) return -1;
        const entry = this.stack[this.top - 2];
        place = this.stack[this.top - 1];
        if (entry >= 0 && (entry & 1) === 0) {
          this.stack[this.top - 2] = entry + 1;
          at = b[entry >> 1];
          break;
        }
        this.top -= 2;
        if (entry >= 0) (this.failed[entry >> 1] ??= new Places(this.text.length)).add(place);
        else this.slots[-1 - entry] = place < 0 ? (undefined as unknown as number) : place;
      }
    }
  }

  /** A look has matched: so it will from every split on the way. */
  private hold(base: number, place: number): number {
    for (; this.top > base; this.top -= 2) {
      const entry = this.stack[this.top - 2];
      if (entry >= 0) (this.held[entry >> 1] ??= new Places(this.text.length)).add(this.stack[this.top - 1]);
    }
    return place;
  }

  private push(entry: number, place: number): void {
    if (this.top === this.stack.length) {
      const larger = new Int32Array(2 * this.top);
      larger.set(this.stack);
      this.stack = larger;
    }
    this.stack[this.top++] = entry;
    this.stack[this.top++] = place;
  }

  private pointAt(place: number): number {
    return (this.program.unicode ? this.text.codePointAt(place) : this.text.charCodeAt(place)) ?? -1;
  }

  private pointBefore(place: number): number {
    const unit = this.text.charCodeAt(place - 1);
    if (!this.program.unicode || place < 2 || unit < 0xdc00 || unit > 0xdfff) return unit;
    const pair = this.text.codePointAt(place - 2) as number;
    return pair > 0xffff ? pair : unit;
  }
}
