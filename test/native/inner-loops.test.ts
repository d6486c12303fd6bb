import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { describeSpills, disassemble, type ProductLoop, productLoops, setsIn } from '../helpers/disassembly.js';
import { addonPath, withoutNative } from '../helpers/native.js';

/**
 * What must be found in product loops of each set: a set whose kernels lost their instructions is as slow as one whose sums leave the
 * registers.
 */
const instructionsOf: Readonly<Record<string, readonly RegExp[]>> = {
  generic: [/^(v?addps|fmla|fadd)$/],
  avx2: [/^vfmadd\d+ps$/],
  avx512: [/^vfmadd\d+ps$/],
  avx512bf16: [/^vfmadd\d+ps$/, /^vdpbf16ps$/],
  amx: [/^vfmadd\d+ps$/, /^vdpbf16ps$/, /^tdpbf16ps$/],
  neon: [/^fmla$/],
  neonbf16: [/^fmla$/, /^(bfdot|bfmmla)$/],
};

/** The addon that was built here, and those of packages. */
function addons(): { name: string; path: string }[] {
  const packages = existsSync('npm') ? readdirSync('npm').filter((name) => name.startsWith('lowrank-')) : [];
  const prebuilt = packages.flatMap((name) =>
    readdirSync(join('npm', name), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.node'))
      .map((file) => ({ name: join(name, file), path: join('npm', name, file) })),
  );
  return [{ name: 'the addon built here', path: addonPath }, ...prebuilt];
}

const multiplies = ({ symbol }: ProductLoop) => /::(multiply(?!_rows|_with|_few)\w*|tile)\b/.test(symbol);

describe.each(addons())('$name', ({ path }) => {
  test('no sum of a product goes to the stack', ({ skip }) => {
    skip(path === addonPath && withoutNative !== undefined, withoutNative);
    const code = disassemble(path);
    if ('missing' in code) return skip(code.missing);
    const sets = setsIn(code.text);
    // Windows' linkers keep names in files of their own.
    skip(sets.length === 0 && /file format pe/.test(code.text), 'the file has no symbols');
    expect(sets, 'sets with symbols').not.toEqual([]);
    const loops = productLoops(code.text);
    const lacking = sets.flatMap((set) => {
      const mine = loops.filter((loop) => loop.set === set);
      const wanted = instructionsOf[set] ?? [];
      const missing = wanted.filter((mnemonic) => !mine.some(({ adding }) => [...adding].some((name) => mnemonic.test(name))));
      const known = wanted.length > 0 && mine.some(multiplies) && missing.length === 0;
      return known ? [] : [`${set}: no loop of multiply with ${missing.join(' and ') || 'instructions that this test knows'}`];
    });
    expect(lacking.join('\n')).toBe('');
    const spilled = loops.filter(({ spills }) => spills.length > 0);
    expect(spilled.map(describeSpills).join('\n')).toBe('');
  });
});

describe('what is found in machine code', () => {
  const code = (set: string, lines: readonly string[]) =>
    [
      `0000000000000f00 <lowrank::${set}::matmul(lowrank::Call const&, lowrank::Pool&)>:`,
      '     f00:\tret',
      `0000000000001000 <void lowrank::${set}::multiply_steps<6, 2>(long)>:`,
      ...lines.map((line, i) => `    ${(0x1000 + 4 * i).toString(16)}:\t${line.replace(' ', '\t')}`),
    ].join('\n');
  const jump = (mnemonic: string) => `${mnemonic} 1004 <void lowrank::avx2::multiply_steps<6, 2>(long)+0x4>`;
  const sums = (line: string) => Array.from({ length: 12 }, (_, i) => line.replaceAll('#', String(i)));
  const x86 = ['xor %eax,%eax', 'vmovups (%rsi),%ymm12', ...sums('vfmadd231ps (%rdi),%ymm12,%ymm#'), 'add $0x40,%rsi', jump('jne')];
  const arm = ['mov x3, #0x0', 'ldr q30, [x1], #16', ...sums('fmla v#.4s, v30.4s, v31.s[0]'), 'subs x2, x2, #0x1', jump('b.ne')];

  test.each([
    ['avx2', x86, 'vmovaps %xmm0,0x20(%rsp)', 'mov 0x8(%rsi),%rax'],
    ['neon', arm, 'str q0, [sp, #32]', 'ldr q0, [x4, #32]'],
  ])('%s: a loop of sums, and what of it is on the stack', (set, lines, spill, load) => {
    expect(setsIn(code(set, lines))).toEqual([set]);
    expect(productLoops(code(set, lines))).toMatchObject([{ set, spills: [] }]);
    expect(productLoops(code(set, lines.toSpliced(4, 0, load)))).toMatchObject([{ set, spills: [] }]);
    const [broken] = productLoops(code(set, lines.toSpliced(4, 0, spill)));
    expect(describeSpills(broken)).toContain(
      `of the ${lines.length} instructions of the loop at 1004 1 touch the stack\n    1010: ${spill}`,
    );
  });

  test('before and behind the loop the stack may be used; other arithmetic makes another loop', () => {
    const [loop] = productLoops(code('avx2', [...x86, 'vmovaps %ymm0,(%rsp)'].with(0, 'vmovaps (%rsp),%ymm0')));
    expect(loop).toMatchObject({ spills: [] });
    expect(loop.body).toHaveLength(x86.length - 1);
    expect(productLoops(code('avx2', x86.toSpliced(4, 0, 'vdivps %ymm1,%ymm2,%ymm3')))).toEqual([]);
    expect(productLoops(code('avx2', x86.slice(0, -1)))).toEqual([]);
  });

  test('a frame pointer is the stack, and without a frame its register is like others', () => {
    const load = x86.toSpliced(4, 0, 'vbroadcastss 0x8(%rbp),%ymm15');
    expect(productLoops(code('avx2', load))).toMatchObject([{ spills: [] }]);
    expect(productLoops(code('avx2', load.with(0, 'mov %rsp,%rbp')))).toMatchObject([{ spills: [{}] }]);
  });

  test('tile registers: addresses may come from the stack, tiles and vectors may not', () => {
    const body = ['xor %eax,%eax', 'tileloadd (%rsi,%rax,1),%tmm6', 'tdpbf16ps %tmm6,%tmm4,%tmm0', 'mov 0x8(%rsp),%rsi', jump('jne')];
    expect(productLoops(code('amx', body))).toMatchObject([{ set: 'amx', spills: [] }]);
    expect(productLoops(code('amx', body.toSpliced(2, 0, 'tileloadd (%rsp,%rax,1),%tmm5')))).toMatchObject([{ spills: [{}] }]);
  });
});
