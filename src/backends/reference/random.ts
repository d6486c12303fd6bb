import { philox } from '../../util/philox.js';
import { floats, type Kernels, type Operand } from './operand.js';

/** Whether element [i, j] of a matrix is kept by a mask, which has as many rows; all are without one. */
export function kept(mask: Operand | undefined, rows: number, columns: number): (i: number, j: number) => boolean {
  if (!mask) return () => true;
  const stride = Math.ceil(columns / 32);
  const words = mask.check(['i32'], [rows, stride]).integers();
  return (i, j) => ((words[i * stride + Math.floor(j / 32)] >>> (j % 32)) & 1) === 1;
}

export const randomOps: Kernels<'dropoutMask' | 'dropout'> = {
  dropoutMask: (_, { mask }, { p, seed, stream, step }) => {
    const bits = mask.check(['i32']).integers();
    if (!(p >= 0 && p < 1)) mask.refuse(`p is ${p}`, 'at least 0, below 1');
    const threshold = Math.round(p * 2 ** 16);
    const words = new Uint32Array(4);
    for (let w = 0; w < bits.length; w++) {
      bits[w] = 0;
      for (let bit = 0; bit < 32; bit++) {
        if (bit % 8 === 0) philox(words, seed, stream, 4 * w + bit / 8, step);
        const half = (words[(bit % 8) >> 1] >>> (16 * (bit % 2))) & 0xffff;
        if (half >= threshold) bits[w] |= 1 << bit;
      }
    }
  },
  dropout: ({ x, mask }, { out }, { maskScale }) => {
    const [T, N] = x.check(floats, [-1, -1]).shape;
    const keeps = kept(mask, T, N);
    out.check(floats, x.shape).store(x.values().map((value, i) => (keeps(Math.floor(i / N), i % N) ? Math.fround(maskScale) * value : 0)));
  },
};
