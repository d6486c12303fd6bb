/**
 * What the compiler made of the inner loops of products, read out of `objdump -d --no-show-raw-insn -C`. A product loop is an innermost
 * loop that does nothing but load, spread, multiply and add, at least `fewestSums` times, so that no name of a kernel is needed to find it.
 */
import { spawnSync } from 'node:child_process';

export interface Instruction {
  address: number;
  mnemonic: string;
  operands: string;
}

export interface ProductLoop {
  /** Of the innermost function that it is part of, with its parameters. */
  symbol: string;
  /** The namespace of the instruction set. */
  set: string;
  body: Instruction[];
  /** The mnemonics that add to sums. */
  adding: ReadonlySet<string>;
  /** What moves between registers and the stack. */
  spills: Instruction[];
}

/** A tile of the smallest set, 4 × 2 vectors. */
const fewestSums = 8;

/** Products of a step of K that are added to sums: x86 and Arm. */
const adding = /^(vfn?m(add|sub)\d+ps|vdpbf16ps|v?addps|fml[as]|fadd|bfdot|bfmmla)$/;
/** Those that add to a whole tile of sums in tile registers. */
const addingTiles = /^tdpbf16ps$/;
/** What else may stand in the loop of a product: moves, shuffles, multiplications, addresses, the loop's own count and jump. */
const plain = new RegExp(
  [
    ...['v?mov', 'vp?broadcast', 'v?shuf', 'vp?perm', 'v?unpck', 'vinsert', 'vextract', 'v?mulps', 'tileload', 'prefetch'],
    ...['lea', 'add', 'sub', 'inc', 'dec', 'cmp', 'test', 'imul', 'nop', 'cmov', 'xchg', 'j'],
    ...[
      'ld',
      'st',
      'dup',
      'fmul',
      'fmov',
      'ins',
      'ext',
      'mul',
      'madd',
      'cbn?z',
      'tbn?z',
      'b$',
      'b\\.',
      'prfm',
      'subs',
      'adds',
      'lsl',
      'sxtw',
    ],
  ]
    .map((start) => `^${start}`)
    .join('|'),
);
/** Whether an operand lies on the stack. The frame pointer counts where the function sets it as one: else it is a register like others. */
function stackOperands(instructions: readonly Instruction[]): RegExp {
  const framed = instructions.some(({ operands }) => /^%rsp,%rbp$|\(%rsp\),%rbp$|^x29, sp\b/.test(operands));
  return framed ? /\(%r[sb]p|\[(sp|x29)\b/ : /\(%rsp|\[sp\b/;
}
const vectorRegister = /%[xyzt]mm\d|\b[vqds]\d/;

/** The instructions of each function. */
function* functionsOf(text: string): Generator<{ symbol: string; instructions: Instruction[] }> {
  let symbol: string | undefined;
  let instructions: Instruction[] = [];
  for (const [, name, address, mnemonic, operands] of text.matchAll(/^(?:[0-9a-f]+ <(.*)>:|\s+([0-9a-f]+):\t(\S+)[ \t]*(.*))$/gm)) {
    if (name !== undefined) {
      if (symbol !== undefined) yield { symbol, instructions };
      [symbol, instructions] = [name, []];
    } else {
      instructions.push({ address: Number.parseInt(address, 16), mnemonic, operands });
    }
  }
  if (symbol !== undefined) yield { symbol, instructions };
}

/** Bodies of loops that hold no other loop: from where a jump leads back to that jump. */
function innermostLoops(instructions: readonly Instruction[]): Instruction[][] {
  const places = new Map(instructions.map(({ address }, i) => [address, i]));
  const loops = instructions.flatMap(({ mnemonic, operands }, end): [number, number][] => {
    const target = /^(j|b$|b\.|cbn?z|tbn?z)/.test(mnemonic) && /(?:^|\s)(?:0x)?([0-9a-f]+) </.exec(operands);
    const begin = target ? places.get(Number.parseInt(target[1], 16)) : undefined;
    return begin === undefined || begin > end ? [] : [[begin, end]];
  });
  const holds = ([begin, end]: [number, number], other: [number, number]) => begin <= other[0] && other[1] <= end;
  return loops
    .filter((loop) => !loops.some((other) => other !== loop && holds(loop, other) && !holds(other, loop)))
    .map(([begin, end]) => instructions.slice(begin, end + 1));
}

/** The instruction sets that the text has kernels of. */
export function setsIn(text: string): string[] {
  return [...new Set([...text.matchAll(/^[0-9a-f]+ <lowrank::(\w+)::matmul\(/gm)].map(([, set]) => set))];
}

/** The product loops of all functions that belong to an instruction set. */
export function productLoops(text: string): ProductLoop[] {
  const sets = new Set(setsIn(text));
  const found: ProductLoop[] = [];
  for (const { symbol, instructions } of functionsOf(text)) {
    const set = [...symbol.matchAll(/lowrank::(\w+)::/g)].map(([, name]) => name).find((name) => sets.has(name));
    // Those that measure the machine's peak are no products.
    if (set === undefined || symbol.includes('::peak_')) continue;
    const onStack = stackOperands(instructions);
    for (const body of innermostLoops(instructions)) {
      const added = body.map(({ mnemonic }) => mnemonic).filter((mnemonic) => adding.test(mnemonic) || addingTiles.test(mnemonic));
      const tiles = added.some((mnemonic) => addingTiles.test(mnemonic));
      if (!tiles && (added.length < fewestSums || !body.every(({ mnemonic }) => adding.test(mnemonic) || plain.test(mnemonic)))) continue;
      // While the tile unit works an address from the stack costs nothing, nor where memory bounds the loop and rows apart have more
      // addresses than there are registers.
      const vectorsAlone = tiles || /::multiply_(rows|with)\b/.test(symbol);
      const spills = body.filter(({ operands }) => onStack.test(operands) && (!vectorsAlone || vectorRegister.test(operands)));
      found.push({ symbol, set, body, adding: new Set(added), spills });
    }
  }
  return found;
}

/** The loop's place and what is wrong with it. */
export function describeSpills({ symbol, body, spills }: ProductLoop): string {
  const lines = spills.map(({ address, mnemonic, operands }) => `    ${address.toString(16)}: ${mnemonic} ${operands}`);
  const place = body[0].address.toString(16);
  return `${symbol}: of the ${body.length} instructions of the loop at ${place} ${spills.length} touch the stack\n${lines.join('\n')}`;
}

/** A file's machine code as text, by the first objdump that can read it; or why there is none. */
export function disassemble(path: string): { text: string } | { missing: string } {
  const names = ['objdump', 'aarch64-linux-gnu-objdump'];
  for (const name of names) {
    const { status, stdout } = spawnSync(name, ['-d', '--no-show-raw-insn', '-C', path], { encoding: 'utf8', maxBuffer: 1 << 29 });
    if (status === 0) return { text: stdout };
  }
  return { missing: `none of ${names.join(', ')} is installed and reads ${path}` };
}
