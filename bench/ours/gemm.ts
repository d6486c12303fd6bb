/** Matrix products of ours: each request {form, m, k, n, dtype, repeat} is answered with the seconds of one product. */
import { openCpuBackend } from '#lowrank/backends/cpu/index.js';
import { empty } from '#lowrank/core/tensor.js';
import { serve } from '../contender.js';
import type { Product } from '../gemm.js';

const backend = await openCpuBackend();

await serve(async ({ form, m, k, n, dtype, repeat }: Product & { repeat: number }) => {
  const type = dtype === 'bf16' ? 'bf16' : 'f32';
  const shape = { NT: [[m, k], [n, k]], NN: [[m, k], [k, n]], TN: [[k, m], [k, n]] }[form]; // biome-ignore format: a table
  const [a, b, out] = [...shape, [m, n]].map((size) => empty(backend, size, type, 'workspace'));
  for (const tensor of [a, b]) backend.run('fill', {}, { out: tensor }, { value: 0.01 });
  const attributes = { transposeA: form === 'TN' ? 1 : 0, transposeB: form === 'NT' ? 1 : 0, alpha: 1, accumulate: 0 };
  const product = () => backend.run('matmul', { a, b }, { out }, attributes);
  product();
  await backend.sync();
  const start = performance.now();
  for (let i = 0; i < repeat; i++) product();
  await backend.sync();
  const seconds = (performance.now() - start) / 1000 / repeat;
  for (const tensor of [a, b, out]) tensor.dispose();
  return { seconds };
});
await backend.close();
