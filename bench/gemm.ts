/**
 * The suite `gemm`: single matrix products of ours beside PyTorch's (oneDNN, MKL), taking turns. Where the instruction set has no products
 * of bf16, PyTorch's fastest, in f32, stand beside ours in bf16 too (bench/instructions.ts).
 */
import { availableParallelism } from 'node:os';
import { type Shaped, workOf } from '#lowrank/core/ops.work.js';
import { Contender, median } from './contender.js';
import { type Bench, judged, ours, peer, type Row, round } from './suite.js';

/** out [m,n] of k products each. NT: forward, b stored [n,k]; NN: input gradient; TN: weight gradient, a stored [k,m]. */
export interface Product {
  form: 'NT' | 'NN' | 'TN';
  m: number;
  k: number;
  n: number;
  dtype: 'bf16' | 'fp32';
}

/** The call of `matmul` that computes a product. */
export function callOf({ form, m, k, n, dtype }: Product) {
  const operand = (...shape: number[]): Shaped => ({ dtype: dtype === 'bf16' ? 'bf16' : 'f32', shape });
  return {
    a: form === 'TN' ? operand(k, m) : operand(m, k),
    b: form === 'NT' ? operand(n, k) : operand(k, n),
    out: operand(m, n),
    attributes: { transposeA: form === 'TN', transposeB: form === 'NT', alpha: 1, accumulate: false },
  };
}

/** [tokens, inputs, outputs] of linear layers. */
const layers = [
  [2048, 576, 1536],
  [2048, 1536, 576],
  [512, 2048, 5632],
  [2048, 2048, 5632],
];
const rounds = 7;

/** Without products of bf16: the share of the peak that layers 1 to 3 should reach. With them: PyTorch's speed. */
const shares: Readonly<Record<string, number>> = { avx2: 0.75, avx512: 0.7 };

function goalOf({ name, bf16 }: Bench['instructions'], dtype: Product['dtype'], layer: number): Row['goal'] {
  if (bf16) return { speed: dtype === 'bf16' ? 1 : 1.8 };
  return layer < 3 && name in shares ? { share: shares[name] } : {};
}

export async function gemmSuite(bench: Bench): Promise<Row[]> {
  const contenders = [
    new Contender('ours', process.execPath, [ours('gemm')]),
    new Contender('PyTorch', bench.python, [peer('gemm'), String(availableParallelism())]),
  ];
  const rows: Row[] = [];
  try {
    for (const dtype of ['bf16', 'fp32'] as const) {
      for (const [layer, [tokens, inputs, outputs]] of layers.entries()) {
        const products: Product[] = [
          { form: 'NT', m: tokens, k: inputs, n: outputs, dtype },
          { form: 'NN', m: tokens, k: outputs, n: inputs, dtype },
          { form: 'TN', m: outputs, k: tokens, n: inputs, dtype },
        ];
        for (const product of products) {
          const name = `${dtype} ${product.form} ${tokens}×${inputs}→${outputs}`;
          if (name.includes(bench.only ?? ''))
            rows.push(await measure(name, product, contenders, goalOf(bench.instructions, dtype, layer), bench));
        }
      }
    }
  } finally {
    await Promise.all(contenders.map((contender) => contender.close()));
  }
  return rows;
}

async function measure(name: string, product: Product, contenders: readonly Contender[], goal: Row['goal'], bench: Bench): Promise<Row> {
  const { a, b, out, attributes } = callOf(product);
  const work = workOf('matmul', { a, b }, { out }, attributes).flops / 1e9;
  const peaks = { bf16: bench.peaks.bf16, fp32: bench.peaks.f32 };
  // About a tenth of a second each time.
  const repeat = Math.ceil((0.1 * 0.7 * peaks[product.dtype]) / work);
  const dtypes = [product.dtype, bench.instructions.bf16 ? product.dtype : 'fp32'] as const;
  const seconds = contenders.map((): number[] => []);
  for (let i = 0; i < rounds; i++) {
    for (const [c, contender] of contenders.entries())
      seconds[c].push((await contender.ask<{ seconds: number }>({ ...product, dtype: dtypes[c], repeat })).seconds);
  }
  const [mine, theirs] = seconds.map((list) => work / median(list));
  const [share, theirShare] = [mine / peaks[dtypes[0]], theirs / peaks[dtypes[1]]];
  bench.note(`  ${name}  ${mine.toFixed(0)} (${(100 * share).toFixed(0)} %) against ${theirs.toFixed(0)} GFLOP/s`);
  return judged({
    case: name,
    ours: { gflops: round(mine), share: round(share) },
    peer: { gflops: round(theirs), share: round(theirShare) },
    ...(dtypes[0] === dtypes[1] ? {} : { dtypes: { ours: dtypes[0], peer: dtypes[1] } }),
    speed: round(mine / theirs),
    goal,
  });
}
