/** Matrix products of ours: each request {form, m, k, n, dtype, repeat} is answered with the seconds of one product. */
import { openCpuBackend } from '#lowrank/backends/cpu/index.js';
import { empty } from '#lowrank/core/tensor.js';
import { serve } from '../contender.js';
import { callOf, type Product } from '../gemm.js';

const backend = await openCpuBackend();

await serve(async ({ repeat, ...wanted }: Product & { repeat: number }) => {
  const call = callOf(wanted);
  const [a, b, out] = [call.a, call.b, call.out].map(({ shape, dtype }) => empty(backend, shape, dtype, 'workspace'));
  for (const tensor of [a, b]) backend.run('fill', {}, { out: tensor }, { value: 0.01 });
  const product = () => backend.run('matmul', { a, b }, { out }, call.attributes);
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
