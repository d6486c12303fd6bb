import type { Backend } from '../core/backend.js';
import { workOf } from '../core/ops.work.js';
import { empty } from '../core/tensor.js';

const [rows, width] = [512, 2048];
/** How often the product runs at least, and for how many milliseconds: processors take some to reach their speed. */
const [runs, milliseconds] = [5, 300];

/** Operations a second of the product of a linear layer, [512,2048]·[2048,2048]ᵀ: the best of several. */
export async function measureRate(backend: Backend, dtype: 'bf16' | 'f32'): Promise<number> {
  const [a, b, out] = [rows, width, rows].map((n) => empty(backend, [n, width], dtype, 'workspace'));
  for (const tensor of [a, b]) backend.run('fill', {}, { out: tensor }, { value: 0.01 });
  const attributes = { transposeA: false, transposeB: true, alpha: 1, accumulate: false };
  let least = Number.POSITIVE_INFINITY;
  const begin = performance.now();
  for (let i = 0; i < runs || performance.now() < begin + milliseconds; i++) {
    await backend.sync();
    const start = performance.now();
    backend.run('matmul', { a, b }, { out }, attributes);
    await backend.sync();
    least = Math.min(least, performance.now() - start);
  }
  for (const tensor of [a, b, out]) tensor.dispose();
  return workOf('matmul', { a, b }, { out }, attributes).flops / (least / 1000);
}
