import type { TensorView } from './backend.js';
import { bytesOf } from './dtype.js';
import { type OpAttributes, type OpInputs, type OpName, type OpOutputs, opDeclarations, operand } from './ops.table.js';
import { elementsOf } from './tensor.js';

/** What an op costs, by its operands' shapes and dtypes and its attributes. */
export interface Work {
  /**
   * Floating-point operations of its matrix products, two for a multiply-add. What is done to each element by itself counts as none, since
   * moving its bytes takes longer.
   */
  readonly flops: number;
  /** Bytes that are read and written, where each operand travels once: the least that a device has to move. */
  readonly bytes: number;
}

/** An operand as far as its work depends on it. */
export type Shaped = Pick<TensorView, 'dtype' | 'shape'>;
type Formula<K extends OpName> = (operands: OpInputs<K, Shaped> & OpOutputs<K, Shaped>, attributes: OpAttributes<K>) => Partial<Work>;

const size = ({ dtype, shape }: Shaped, elements = elementsOf(shape)) => bytesOf(dtype, elements);
const sizes = (parts: readonly (Shaped | undefined)[]) => parts.reduce((sum, part) => sum + (part ? size(part) : 0), 0);

/** A base product [T,K]·[K,N] and a branch over rank r. */
const lowRank = (T: number, [outputs, inputs]: readonly number[], r: number) => ({
  base: 2 * T * outputs * inputs,
  down: 2 * T * r * inputs,
  up: 2 * T * r * outputs,
});

/**
 * Products [query, key] of attention, for each query head, with as many queries and keys in each of the segments: query i of Q sees the
 * first K − Q + i + 1 of K keys, at most `window` of them.
 */
function attentionPairs(q: Shaped, k: Shaped, segments: Shaped, window: number): number {
  const S = segments.shape[0];
  if (S === 0) return 0;
  const [Q, K] = [q.shape[0] / S, k.shape[0] / S];
  const first = K - Q + 1;
  const most = window > 0 ? Math.min(window, K) : K;
  const growing = Math.min(Q, Math.max(0, most - first + 1));
  return S * ((growing * (first + first + growing - 1)) / 2 + (Q - growing) * most);
}

/** Where an op computes products, or moves other bytes than every operand once and its accumulators twice. */
const formulas: { readonly [K in OpName]?: Formula<K> } = {
  matmul: ({ a, b, absmax, constants, out }, { transposeA, accumulate }) => ({
    flops: 2 * elementsOf(out.shape) * a.shape[transposeA ? 0 : 1],
    bytes: sizes([a, b, absmax, constants, out, accumulate ? out : undefined]),
  }),
  loraLinear: ({ x, weight, A, mask, y, h }) => {
    const { base, down, up } = lowRank(x.shape[0], weight.shape, A.shape[0]);
    return y ? { flops: base + down + up } : { flops: down, bytes: sizes([x, A, mask, h]) };
  },
  loraLinearBackward: ({ dy, weight, A }) => {
    const { base, down, up } = lowRank(dy.shape[0], weight.shape, A.shape[0]);
    return { flops: base + down + up };
  },
  loraGradients: ({ x, h, dy }) => ({ flops: 2 * x.shape[0] * h.shape[1] * (x.shape[1] + dy.shape[1]) }),
  gatherRows: ({ x, rows, out }) => ({ bytes: size(x, elementsOf(out.shape)) + size(rows) + size(out) }),
  writeRows: ({ x, rows, out }) => ({ bytes: size(x) + size(rows) + size(out, elementsOf(x.shape)) }),
  addRows: ({ x, rows, out }) => ({ bytes: size(x) + size(rows) + 2 * size(out, elementsOf(x.shape)) }),
  slice: ({ x, out }) => ({ bytes: size(x, elementsOf(out.shape)) + size(out) }),
  place: ({ x, out }, { accumulate }) => ({ bytes: size(x) + (accumulate ? 2 : 1) * size(out, elementsOf(x.shape)) }),
  // A group has its share of the rows.
  groupMatmul: ({ a, b, groups, absmax, constants, out }, { transposeA, accumulate }) => {
    const share = 1 / (groups.shape[0] - 1);
    const moved = transposeA ? [a, b] : [a, out];
    const whole = transposeA ? [out, accumulate ? out : undefined] : [b, absmax, constants];
    const depth = transposeA ? b.shape[1] : elementsOf(b.shape) / a.shape[1];
    return { flops: 2 * share * elementsOf(a.shape) * depth, bytes: share * sizes(moved) + sizes(whole) };
  },
  // Scores and their sum over values.
  attention: ({ q, k, segments }, { window }) => ({ flops: 2 * 2 * attentionPairs(q, k, segments, window) * q.shape[1] }),
  // Scores again, dv, do·vᵀ, dq and dk.
  attentionBackward: ({ q, k, segments }, { window }) => ({ flops: 5 * 2 * attentionPairs(q, k, segments, window) * q.shape[1] }),
};

/** The work of one call of an op. */
export function workOf<K extends OpName>(
  op: K,
  inputs: OpInputs<K, Shaped>,
  outputs: OpOutputs<K, Shaped>,
  attributes: OpAttributes<K>,
): Work {
  const operands = { ...inputs, ...outputs };
  const work = formulas[op]?.(operands, attributes);
  return { flops: work?.flops ?? 0, bytes: work?.bytes ?? bytesMoved(op, operands) };
}

/** Every operand once, and what is read before it is written twice. */
function bytesMoved(op: OpName, operands: Readonly<Record<string, Shaped | undefined>>): number {
  const { inputs, outputs } = opDeclarations[op];
  return [...inputs, ...outputs].map(operand).reduce((sum, { name, accumulates }) => {
    const view = operands[name];
    return view ? sum + (accumulates ? 2 : 1) * size(view) : sum;
  }, 0);
}
