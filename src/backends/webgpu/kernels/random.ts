import { floats } from '../../../core/operand.js';
import type { GpuOps } from '../context.js';
import { type GpuOperand, grid, type Kernel } from '../kernel.js';
import { runMap } from './elementwise.js';

const size = 64;

/** Philox4x32-10 (Salmon et al., SC 2011), the same numbers as src/util/philox.ts. */
const philox = /* wgsl */ `
fn high(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu; let ah = a >> 16u;
  let bl = b & 0xffffu; let bh = b >> 16u;
  let middle = ah * bl + ((al * bl) >> 16u);
  let carry = (middle & 0xffffu) + al * bh;
  return ah * bh + (middle >> 16u) + (carry >> 16u);
}
fn philox(index: u32) -> vec4u {
  var c = vec4u(index, p.step, 0u, 0u);
  var k = vec2u(p.seed, p.stream);
  for (var round = 0; round < 10; round++) {
    c = vec4u(high(c.z, 0xcd9e8d57u) ^ c.y ^ k.x, c.z * 0xcd9e8d57u, high(c.x, 0xd2511f53u) ^ c.w ^ k.y, c.x * 0xd2511f53u);
    k += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}
`;

const dropoutMask: Kernel = {
  name: 'dropoutMask',
  size,
  globals: () => philox,
  main: () => `  if (thread >= p.n) { return; }
  var bits = 0u;
  for (var eighth = 0u; eighth < 4u; eighth++) {
    let lanes = philox(4u * thread + eighth);
    for (var bit = 0u; bit < 8u; bit++) {
      let half = (lanes[bit >> 1u] >> (16u * (bit & 1u))) & 0xffffu;
      bits |= select(0u, 1u, half >= p.threshold) << (8u * eighth + bit);
    }
  }
  mask_set(thread, bitcast<i32>(bits));`,
};

/** `keeps(i, columns)`: whether a mask keeps element i of a matrix; all are kept where there is none. */
export function keeps(mask: unknown): string {
  if (!mask) return 'fn keeps(i: u32, columns: u32) -> bool { return true; }\n';
  return `fn keeps(i: u32, columns: u32) -> bool {
  let j = i % columns;
  return ((bitcast<u32>(mask_at((i / columns) * ((columns + 31u) / 32u) + j / 32u)) >> (j % 32u)) & 1u) == 1u;
}\n`;
}

/** Throws unless a mask is one of a matrix of this shape. */
export function checkMask(mask: GpuOperand | undefined, rows: number, columns: number): void {
  mask?.check(['i32'], [rows, Math.ceil(columns / 32)]);
}

export const randomOps: GpuOps<'dropoutMask' | 'dropout'> = {
  dropoutMask: (_, { mask }, { p, seed, stream, step }, { dispatch }) => {
    mask.check(['i32']);
    if (!(p >= 0 && p < 1)) mask.refuse(`p is ${p}`, 'at least 0, below 1');
    const integers = { n: mask.size, threshold: Math.round(p * 2 ** 16), seed, stream, step };
    dispatch({ kernel: dropoutMask, writes: { mask }, integers, groups: grid(mask.size, size) });
  },
  dropout: ({ x, mask }, { out }, { maskScale }, context) => {
    const [rows, columns] = x.check(floats, [-1, -1]).shape;
    checkMask(mask, rows, columns);
    out.check(floats, x.shape);
    runMap(context, {
      reads: { x, mask },
      writes: { out },
      formulas: 'out=select(0.0, p.maskScale * x_at(i), keeps(i, p.columns))',
      integers: { columns },
      numbers: { maskScale },
      globals: keeps(mask),
    });
  },
};
