import type { Backend, DeviceBuffer, TensorView } from '../../src/core/backend.js';
import { bytesOf, type DType } from '../../src/core/dtype.js';
import type { OpAttributes, OpInputs, OpName, OpOutputs } from '../../src/core/ops.table.js';
import { elementsOf } from '../../src/core/tensor.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, fromBf16, fromF16, toBf16, toF16 } from '../../src/util/half.js';
import type { Case, Given, Tolerance } from './case.js';
import type { Device, Slack } from './devices.js';

/** The bytes of every operand after a call. */
export type Results = ReadonlyMap<string, Uint8Array>;

/** Bytes before and after an operand that no op may touch; the operand begins at an odd element, as a view of rows may. */
const before = 4;
const after = 256;
const garbage = 0xff;

const encoded = new WeakMap<Given, Uint8Array>();

function encode(operand: Given): Uint8Array {
  const bytes = encoded.get(operand) ?? contentOf(operand);
  encoded.set(operand, bytes);
  return bytes;
}

function contentOf({ dtype, shape, values }: Given): Uint8Array {
  if (!values) return new Uint8Array(bytesOf(dtype, elementsOf(shape))).fill(garbage);
  const stored = dtype === 'bf16' ? f32ToBf16(values as Float32Array) : dtype === 'f16' ? f32ToF16(values as Float32Array) : values.slice();
  return new Uint8Array(stored.buffer);
}

/** The elements of an operand's bytes. */
export function valuesOf({ dtype }: Given, bytes: Uint8Array): Float32Array {
  return decode(dtype, bytes) as Float32Array;
}

function decode(dtype: DType, bytes: Uint8Array): ArrayLike<number> {
  const { buffer } = bytes.slice();
  if (dtype === 'bf16') return bf16ToF32(new Uint16Array(buffer));
  if (dtype === 'f16') return f16ToF32(new Uint16Array(buffer));
  if (dtype === 'i8') return new Int8Array(buffer);
  return dtype === 'f32' ? new Float32Array(buffer) : dtype === 'i32' ? new Int32Array(buffer) : bytes;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

/** Runs a case. Throws where the op writes outside its outputs. */
export async function run(backend: Backend, { op, inputs, outputs, attributes, inPlace, label }: Case): Promise<Results> {
  const written = new Map<string, { view: TensorView; buffer: DeviceBuffer; bytes: Uint8Array }>();
  const place = (name: string, given: Given): TensorView => {
    const content = encode(given);
    const bytes = new Uint8Array(before + content.length + after).fill(garbage);
    bytes.set(content, before);
    const buffer = backend.allocate(bytes.length, 'workspace');
    backend.write(buffer, bytes);
    const view = { buffer, offset: before, dtype: given.dtype, shape: given.shape };
    written.set(name, { view, buffer, bytes });
    return view;
  };
  const views = (operands: Case['inputs'], shared: Readonly<Record<string, string>>) => {
    const placed = Object.entries(operands).map(([name, given]) => {
      const owner = written.get(shared[name]);
      return [name, owner?.view ?? (given && place(name, given))];
    });
    return Object.fromEntries(placed);
  };
  const from = views(inputs, {});
  const to = views(outputs, inPlace);
  backend.run(op, from as OpInputs<OpName, TensorView>, to as OpOutputs<OpName, TensorView>, attributes as OpAttributes<OpName>);
  const results = new Map<string, Uint8Array>();
  const readOnly = new Set(Object.keys(inputs).filter((name) => !Object.values(inPlace).includes(name)));
  const reads = Array.from(written.values(), ({ buffer, bytes }) => backend.read(buffer, 0, bytes.length));
  const [contents] = await Promise.all([Promise.all(reads), backend.sync()]);
  for (const [i, [name, { buffer, bytes }]] of [...written].entries()) {
    const read = contents[i];
    const end = read.length - after;
    results.set(name, read.slice(before, end));
    const kept = readOnly.has(name)
      ? [[0, read.length]]
      : [
          [0, before],
          [end, read.length],
        ];
    if (!kept.every((range) => same(read.subarray(...range), bytes.subarray(...range)))) {
      throw new Error(`${label}: memory outside the outputs was written, at ${name}`);
    }
    backend.free(buffer);
  }
  for (const [output, input] of Object.entries(inPlace)) results.set(output, results.get(input)!);
  return results;
}

/** The case that gives results before they are rounded to bf16 or f16. */
export function unrounded({ outputs, ...rest }: Case): Case {
  const widened = Object.entries(outputs).map(([name, given]): [string, Given | undefined] => {
    if (given?.dtype !== 'bf16' && given?.dtype !== 'f16') return [name, given];
    return [name, { ...given, dtype: 'f32', values: given.values && valuesOf(given, encode(given)) }];
  });
  return { ...rest, outputs: Object.fromEntries(widened) };
}

const round: Record<DType, (value: number) => number> = {
  f32: Math.fround,
  bf16: (value) => fromBf16(toBf16(value)),
  f16: (value) => fromF16(toF16(value)),
  i32: (value) => value,
  u8: (value) => value,
  i8: (value) => value,
  u4: (value) => value,
};

function slackOf(tolerance: Device['tolerance'], dtype: DType): Slack {
  return dtype === 'f32' || dtype === 'bf16' || dtype === 'f16' ? tolerance[dtype] : { times: 0, absolute: 0 };
}

/**
 * What is wrong with a case's results on a device of this tolerance, or undefined. `want` are the reference's of the unrounded case. A
 * number is right if it is the rounding to its dtype of some number within the tolerance: that also tells rounding from truncation.
 */
export function mismatch(
  { outputs, tolerances, label }: Case,
  got: Results,
  want: Results,
  device: Device['tolerance'],
): string | undefined {
  for (const [name, output] of Object.entries(outputs)) {
    if (!output) continue;
    const { relative = 0, absolute = 0 }: Tolerance = tolerances[name] ?? {};
    const { times, absolute: more } = slackOf(device, output.dtype);
    const actual = decode(output.dtype, got.get(name)!);
    const wanted = decode(output.dtype === 'bf16' || output.dtype === 'f16' ? 'f32' : output.dtype, want.get(name)!);
    let wrong = 0;
    let first = '';
    for (let i = 0; i < wanted.length; i++) {
      if (Object.is(actual[i], wanted[i])) continue;
      const slack = Number.isFinite(wanted[i]) ? times * (relative * Math.abs(wanted[i]) + absolute) + more : 0;
      const [low, high] = [round[output.dtype](wanted[i] - slack), round[output.dtype](wanted[i] + slack)];
      if (slack === 0 ? Object.is(actual[i], low) : actual[i] >= low && actual[i] <= high) continue;
      if (wrong++ === 0) first = `${name}[${i}] is ${actual[i]}, wanted ${wanted[i]} (between ${low} and ${high})`;
    }
    if (wrong > 0) return `${label}: ${wrong} of ${wanted.length} wrong; ${first}`;
  }
  return undefined;
}

/** The first output whose bits differ between two runs. */
export function difference({ outputs, label }: Case, first: Results, second: Results): string | undefined {
  for (const name of Object.keys(outputs)) {
    if (outputs[name] && !same(first.get(name)!, second.get(name)!)) return `${label}: ${name} has other bits the second time`;
  }
  return undefined;
}
