import { ReferenceBackend } from '../../../src/backends/reference/index.js';
import { type Case, call, type Float, type Given, given, result, ulp, uniform } from '../case.js';
import { run, valuesOf } from '../run.js';

interface Form {
  readonly heads: number;
  readonly groups: number;
  readonly headDim: number;
  /** Queries and keys of each packed example. */
  readonly lengths: readonly (readonly [queries: number, keys: number])[];
  readonly window?: number;
  /** A soft cap of the scores, and a sink for each head. */
  readonly softcap?: number;
  readonly sinks?: boolean;
  /** Size of the numbers of q and k: 4 makes some probabilities all but 1. */
  readonly size?: number;
}

const square = (...lengths: number[]) => lengths.map((length): [number, number] => [length, length]);

const forms: readonly Form[] = [
  { heads: 1, groups: 1, headDim: 8, lengths: square(1) },
  { heads: 3, groups: 1, headDim: 24, lengths: square(1, 1, 1, 1, 1) },
  { heads: 4, groups: 2, headDim: 8, lengths: square(5, 0, 13, 1, 2) },
  { heads: 9, groups: 3, headDim: 64, lengths: square(33, 7), size: 4 },
  { heads: 2, groups: 2, headDim: 128, lengths: square(17, 31) },
  { heads: 2, groups: 1, headDim: 80, lengths: square(97), window: 11 },
  { heads: 2, groups: 1, headDim: 5, lengths: square(50, 49), window: 1 },
  { heads: 2, groups: 2, headDim: 24, lengths: square(307) },
  { heads: 3, groups: 1, headDim: 16, lengths: square(11, 401), window: 130 },
  { heads: 2, groups: 1, headDim: 8, lengths: [] },
  // Decoding with cached keys: the queries stand at the end of their keys.
  {
    heads: 4,
    groups: 2,
    headDim: 64,
    lengths: [
      [1, 1],
      [1, 7],
      [1, 193],
    ],
  },
  {
    heads: 4,
    groups: 1,
    headDim: 24,
    lengths: [
      [3, 100],
      [5, 5],
      [2, 33],
    ],
    window: 16,
  },
  { heads: 2, groups: 2, headDim: 128, lengths: [[1, 331]] },
  // Caps that some scores come near, and sinks that take much of some rows' weight.
  { heads: 4, groups: 2, headDim: 24, lengths: square(5, 113, 1), softcap: 2, size: 3 },
  { heads: 3, groups: 3, headDim: 16, lengths: square(131), window: 37, softcap: 50, sinks: true },
  { heads: 6, groups: 2, headDim: 40, lengths: square(33, 0, 99), sinks: true },
  {
    heads: 4,
    groups: 2,
    headDim: 64,
    lengths: [
      [1, 1],
      [1, 107],
      [3, 31],
    ],
    window: 16,
    softcap: 3,
    sinks: true,
  },
];

function operandsOf({ heads, groups, headDim, lengths, size = 1, sinks }: Form, [q, k, v]: Float[]) {
  const table: number[] = [];
  let [queries, keys] = [0, 0];
  for (const [m, n] of lengths) table.push(queries, (queries += m), keys, (keys += n));
  return {
    q: uniform(q, [queries, heads * headDim], size),
    k: uniform(k, [keys, groups * headDim], size),
    v: uniform(v, [keys, groups * headDim]),
    segments: given('i32', [lengths.length, 4], table),
    sinks: sinks ? uniform('f32', [heads], 4) : undefined,
  };
}

/** The mean over the keys of values in [−1, 1), each weight good to 32 ulp; with bf16, weights are rounded to it (2⁻⁹ of each). */
const forwardTolerances = (exact: boolean, size: number) => ({
  out: { absolute: exact ? 64 * size * ulp : 2 ** -9 },
  lse: { relative: 8 * ulp, absolute: 16 * size * size * ulp },
});

const mixes: readonly Float[][] = [
  ['f32', 'f32', 'f32', 'f32'],
  ['bf16', 'bf16', 'bf16', 'bf16'],
];
const rareMixes: readonly Float[][] = [
  ['f32', 'f32', 'f32', 'bf16'],
  ['bf16', 'f32', 'f32', 'bf16'],
  ['f32', 'bf16', 'bf16', 'f32'],
  ['bf16', 'bf16', 'f32', 'bf16'],
];

/** Where one operand is bf16, the op may round the factors of any of its products to bf16. */
const isExact = (mix: readonly Float[]) => mix.every((dtype) => dtype === 'f32');

function attributesOf({ headDim, window = 0, softcap = 0 }: Form) {
  return { headDim, scale: 1 / Math.sqrt(headDim), window, softcap };
}

function forward(form: Form, mix: Float[]): Case {
  const operands = operandsOf(form, mix);
  const outputs = { out: result(mix[3], operands.q.shape), lse: result('f32', [operands.q.shape[0], form.heads]) };
  return call('attention', operands, outputs, attributesOf(form), forwardTolerances(isExact(mix), form.size ?? 1));
}

/** The backward pass of a forward pass, whose out and lse the reference computes. */
async function backward(form: Form, mix: Float[]): Promise<Case> {
  const pass = forward(form, mix);
  const results = await run(new ReferenceBackend(), pass);
  const made = (name: string): Given => ({ ...pass.outputs[name]!, values: valuesOf(pass.outputs[name]!, results.get(name)!) });
  const { q, k, v, segments, sinks } = pass.inputs as ReturnType<typeof operandsOf>;
  const operands = { q, k, v, segments, sinks, out: made('out'), lse: made('lse'), dout: uniform(mix[3], q.shape) };
  const dsinks = sinks && uniform('f32', sinks.shape);
  const outputs = { dq: result(mix[0], q.shape), dk: result(mix[1], k.shape), dv: result(mix[2], v.shape), dsinks };
  return call('attentionBackward', operands, outputs, attributesOf(form), backwardTolerances(form, mix));
}

/**
 * ds = p · (do·v − do·o) with |do·v| up to about √headDim; dk and dv sum over the queries that see a key, whose weights p sum up to about
 * ln of their number per query head. Errors: 64 ulp of such a term in f32; with bf16, p and ds are rounded to it, 2⁻⁹ of each.
 */
function backwardTolerances({ headDim, heads, groups, lengths, size = 1 }: Form, mix: Float[]) {
  const step = isExact(mix) ? 64 * ulp : 2 ** -9;
  const rows = (4 * heads) / groups;
  const scores = (step * size * size * Math.sqrt(headDim)) / 2;
  // A sink's gradient sums Σ do·o over all queries, in f32 whatever the operands are.
  const dsinks = { absolute: ulp * headDim * lengths.reduce((sum, [queries]) => sum + queries, 1) };
  return { dq: { absolute: scores }, dk: { absolute: scores * rows }, dv: { absolute: step * rows }, dsinks };
}

async function everyCase(): Promise<Case[]> {
  const cases: Case[] = [];
  for (const form of forms) {
    for (const mix of mixes) cases.push(forward(form, mix), await backward(form, mix));
  }
  for (const mix of rareMixes) cases.push(forward(forms[2], mix), await backward(forms[2], mix));
  return cases;
}

export const attentionCases: readonly Case[] = await everyCase();
