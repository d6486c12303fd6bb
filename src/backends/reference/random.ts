import { philox } from '../../util/philox.js';
import { floats, type Kernels } from './operand.js';

export const randomOps: Kernels<'dropout'> = {
  dropout: ({ x }, { out }, { p, seed, stream, step }) => {
    out.check(floats, x.check(floats).shape);
    if (!(p >= 0 && p < 1)) x.refuse(`p is ${p}`, 'at least 0, below 1');
    const words = new Uint32Array(4);
    const result = x.values().map((value, i) => {
      if (i % 4 === 0) philox(words, seed, stream, i / 4, step);
      return (words[i % 4] >>> 8) * 2 ** -24 >= p ? value / (1 - p) : 0;
    });
    out.store(result);
  },
};
