import type { DType } from '../../src/core/dtype.js';
import { type OpAttributes, type OpInputs, type OpName, type OpOutputs, opDeclarations } from '../../src/core/ops.table.js';
import { elementsOf } from '../../src/core/tensor.js';
import { Random } from '../../src/util/philox.js';

/** An operand before the call. Outputs without values hold garbage, so that an op which does not overwrite them is found out. */
export interface Given {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Of u4 the bytes, two elements in each. */
  readonly values?: Float32Array | Int32Array | Uint8Array | Int8Array;
}

/**
 * How far an output may lie from the reference's before it is rounded to its dtype: relative · |want| + absolute. An output without a
 * tolerance must be equal bit for bit.
 */
export interface Tolerance {
  readonly relative?: number;
  readonly absolute?: number;
}

/** One call of an op, to give the reference's result on every backend. */
export interface Case {
  readonly op: OpName;
  readonly label: string;
  readonly inputs: Readonly<Record<string, Given | undefined>>;
  readonly outputs: Readonly<Record<string, Given | undefined>>;
  readonly attributes: Readonly<Record<string, number | boolean | string>>;
  readonly tolerances: Readonly<Record<string, Tolerance>>;
  /** Outputs that use an input's memory: none where a case is written, and what the op table allows in its variants. */
  readonly inPlace: Readonly<Record<string, string>>;
}

type Names<T> = Extract<keyof T, string>;

export function call<K extends OpName>(
  op: K,
  inputs: OpInputs<K, Given>,
  outputs: OpOutputs<K, Given>,
  attributes: OpAttributes<K>,
  tolerances: { [O in Names<OpOutputs<K, Given>>]?: Tolerance } = {},
): Case {
  const describe = (operands: Record<string, Given | undefined>) =>
    Object.entries(operands).map(([name, given]) => given && `${name} ${given.dtype}[${given.shape}]`);
  const settings = Object.entries(attributes).map(([name, value]) => `${name} ${value}`);
  const label = [op, ...describe(inputs), '→', ...describe(outputs), ...settings].join(' ');
  return {
    op,
    label,
    inputs,
    outputs,
    attributes,
    tolerances: tolerances as Record<string, Tolerance>,
    inPlace: {},
  };
}

/** Of the pairs that the op table allows to share memory, those that this call's operands can: [output, input]. */
export function sharable({ op, inputs, outputs }: Case): [output: string, input: string][] {
  const pairs = Object.entries(opDeclarations[op].inPlace ?? {}).flatMap(([output, allowed]) =>
    allowed.map((input): [string, string] => [output, input]),
  );
  return pairs.filter(([output, input]) => {
    const [to, from] = [outputs[output], inputs[input]];
    return to && from && to.dtype === from.dtype && String(to.shape) === String(from.shape);
  });
}

/**
 * The same call with outputs in inputs' memory: each pair that can share by itself, and one for each output at once where there are
 * several.
 */
export function inPlaceVariants(entry: Case): Case[] {
  const pairs = sharable(entry);
  const ways = pairs.map((pair) => [pair]);
  const together = Object.entries(Object.fromEntries(pairs));
  if (together.length > 1) ways.push(together);
  return ways.map((way) => {
    const shared = way.map(([output, input]) => `${output} on ${input}`).join(', ');
    return { ...entry, label: `${entry.label}, ${shared}`, inPlace: Object.fromEntries(way) };
  });
}

let drawn = 0;

/** Numbers uniform in [−size, size), other ones at each call. */
export function uniform(dtype: DType, shape: readonly number[], size = 1): Given {
  const random = new Random(++drawn, 0);
  return { dtype, shape, values: Float32Array.from({ length: elementsOf(shape) }, () => size * (2 * random.next() - 1)) };
}

/** Whole numbers uniform in [from, to). */
export function whole(shape: readonly number[], from: number, to: number): Given {
  const random = new Random(++drawn, 1);
  return {
    dtype: 'i32',
    shape,
    values: Int32Array.from({ length: elementsOf(shape) }, () => from + Math.floor(random.next() * (to - from))),
  };
}

/** A random mask for a matrix [rows, columns], one bit per element. */
export function bits(rows: number, columns: number): Given {
  return whole([rows, Math.ceil(columns / 32)], -(2 ** 31), 2 ** 31);
}

export function given(dtype: DType, shape: readonly number[], values: readonly number[]): Given {
  return { dtype, shape, values: dtype === 'i32' ? Int32Array.from(values) : Float32Array.from(values) };
}

/** An output that is wholly overwritten. */
export function result(dtype: DType, shape: readonly number[]): Given {
  return { dtype, shape };
}

export type Float = 'f32' | 'bf16';

/** Every choice of f32 and bf16 for `count` operands. */
export function mixes(count: number): Float[][] {
  return Array.from({ length: 2 ** count }, (_, bits) => Array.from({ length: count }, (_, i) => (bits & (1 << i) ? 'bf16' : 'f32')));
}

/** Half a unit in the last place of f32, relative: the error of one rounding. */
export const ulp = 2 ** -24;
