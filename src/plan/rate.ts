import type { Backend } from '../core/backend.js';
import { empty } from '../core/tensor.js';

const [rows, width] = [512, 2048];
/** How often the product runs at least, and for how many milliseconds: processors take some to reach their speed. */
const [runs, milliseconds] = [5, 300];

/** Operations a second of the product of a linear layer, [512,2048]·[2048,2048]ᵀ: the best of several. */
export async function measureRate(backend: Backend, dtype: 'bf16' | 'f32'): Promise<number> {
  const [a, b, out] = [rows, width, rows].map((n) => empty(backend, [n, width], dtype, 'workspace'));
  for (const tensor of [a, b]) backend.run('fill', {}, { out: tensor }, { value: 0.01 });
  let least = Number.POSITIVE_INFINITY;
  const begin = performance.now();
  for (let i = 0; i < runs || performance.now() < begin + milliseconds; i++) {
    await backend.sync();
    const start = performance.now();
    backend.run('matmul', { a, b }, { out }, { transposeA: 0, transposeB: 1, alpha: 1, accumulate: 0 });
    await backend.sync();
    least = Math.min(least, performance.now() - start);
  }
  for (const tensor of [a, b, out]) tensor.dispose();
  return (2 * rows * width * width) / (least / 1000);
}
