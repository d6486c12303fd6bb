import { decodeFourBit, decodeRows, type FourBitType, fourBitConstants, fourBitParts, isBlockSize } from '../quant/four-bit.js';
import { LowrankError } from '../util/errors.js';
import { isObject, type JsonObject, parseJson } from '../util/json.js';
import { type Checkpoint, decodeNumbers, type QuantizedParts, type StoredTensor, withReadAs } from './checkpoint.js';
import type { TensorToWrite } from './safetensors.js';
import { decodeUtf8 } from './source.js';

/**
 * Quantised weights as bitsandbytes stores them (QuantState.as_dict, https://huggingface.co/docs/bitsandbytes). Of a matrix W in 4 bits:
 * `W` U8 [⌈n/2⌉, 1], two codes in a byte, the first in the upper half; `W.absmax` F32, or U8 where the scales are quantised, too;
 * `W.quant_map` F32 [16]; `W.nested_absmax` F32 and `W.nested_quant_map` F32 [256]; `W.quant_state.bitsandbytes__nf4` or `__fp4`, the bytes
 * of a JSON object. In 8 bits: `P.weight` I8 [out,in], `P.SCB` F32 [out], `P.weight_format` U8.
 */
const stateSuffixes: Readonly<Record<string, FourBitType>> = {
  '.quant_state.bitsandbytes__nf4': 'nf4',
  '.quant_state.bitsandbytes__fp4': 'fp4',
};

const mend = 'download the checkpoint again, or quantise it anew';

/** The checkpoint with each quantised matrix and what belongs to it as one tensor of its real shape. */
export async function groupQuantized(checkpoint: Checkpoint): Promise<Checkpoint> {
  const tensors = new Map(checkpoint.tensors);
  for (const [name, stored] of checkpoint.tensors) {
    const suffix = Object.keys(stateSuffixes).find((end) => name.endsWith(end));
    if (suffix !== undefined) await groupFourBit(tensors, name.slice(0, -suffix.length), stored, stateSuffixes[suffix]);
    else if (name.endsWith('.SCB')) await groupRows(tensors, name.slice(0, -'.SCB'.length));
  }
  return { ...checkpoint, tensors, close: () => checkpoint.close() };
}

async function groupFourBit(tensors: Map<string, StoredTensor>, name: string, stored: StoredTensor, type: FourBitType): Promise<void> {
  const place = `${stored.file.name}: tensor "${stored.name}"`;
  const refuse = (problem: string, expected: string): never => {
    throw new LowrankError(problem, { place, expected, mend });
  };
  if (stored.byteLength > 65536) refuse(`holds ${stored.byteLength} bytes`, 'a short JSON object');
  const state = parseJson(decodeUtf8(await stored.read(), place), place);
  if (!isObject(state)) return refuse('is not a JSON object', 'the state of a quantised matrix');
  const { blocksize, shape } = state;
  if (!isBlockSize(blocksize)) return refuse(`blocksize ${JSON.stringify(blocksize)}`, 'a power of two from 32 to 65536');
  if (!Array.isArray(shape) || shape.length !== 2 || !shape.every((n) => Number.isSafeInteger(n) && (n as number) > 0))
    return refuse(`shape ${JSON.stringify(shape)}`, 'two sizes');
  const [rows, columns] = shape as number[];
  const blocks = Math.ceil((rows * columns) / blocksize);
  const part = (suffix: string, dtypes: readonly string[], elements: number): StoredTensor => {
    const tensor = tensors.get(name + suffix);
    if (!tensor) return refuse(`"${name}${suffix}" is missing`, 'all tensors of a quantised matrix');
    const count = tensor.shape.reduce((product, n) => product * n, 1);
    if (!dtypes.includes(tensor.dtype) || count !== elements)
      refuse(`"${name}${suffix}" is ${tensor.dtype} [${tensor.shape}]`, `${dtypes.join(' or ')} with ${elements} elements`);
    tensors.delete(name + suffix);
    return tensor;
  };
  const codes = part('', ['U8'], Math.ceil((rows * columns) / 2));
  const absmax = part('.absmax', ['U8', 'F32'], blocks);
  const map = part('.quant_map', ['F32'], 16);
  const nested = absmax.dtype === 'U8' ? nestedParts(state, blocks, part, refuse) : undefined;
  tensors.delete(stored.name);
  const constants = async () => {
    const own = await floats(map);
    if (!nested) return fourBitConstants(own, blocksize);
    const [values, scales] = [await floats(nested.map), await floats(nested.absmax)];
    return fourBitConstants(own, blocksize, { offset: nested.offset, values, absmax: scales, blockSize: nested.blockSize });
  };
  const parts = { kind: 'u4', codes, absmax, constants } as const;
  tensors.set(name, quantizedTensor(name, type.toUpperCase(), [rows, columns], parts));
}

function nestedParts(
  state: JsonObject,
  blocks: number,
  part: (suffix: string, dtypes: readonly string[], elements: number) => StoredTensor,
  refuse: (problem: string, expected: string) => never,
) {
  const { nested_blocksize: blockSize, nested_offset: offset } = state;
  if (!isBlockSize(blockSize)) return refuse(`nested_blocksize ${JSON.stringify(blockSize)}`, 'a power of two from 32 to 65536');
  if (typeof offset !== 'number') return refuse(`nested_offset ${JSON.stringify(offset)}`, 'a number');
  const absmax = part('.nested_absmax', ['F32'], Math.ceil(blocks / blockSize));
  return { blockSize, offset, absmax, map: part('.nested_quant_map', ['F32'], 256) };
}

async function groupRows(tensors: Map<string, StoredTensor>, path: string): Promise<void> {
  const [codes, absmax, format] = [`${path}.weight`, `${path}.SCB`, `${path}.weight_format`].map((name) => tensors.get(name));
  const fits = codes?.dtype === 'I8' && codes.shape.length === 2 && absmax?.dtype === 'F32' && absmax.shape.join() === `${codes.shape[0]}`;
  if (!codes || !absmax || !fits) {
    const place = `${absmax?.file.name}: tensor "${path}.SCB"`;
    throw new LowrankError('does not belong to an I8 matrix', {
      place,
      expected: `"${path}.weight" [out, in] I8 with SCB F32 [out]`,
      mend,
    });
  }
  // 0 is row by row; the others are layouts of GPUs.
  if (format && (format.byteLength > 8 || (await format.read()).some((byte) => byte !== 0))) {
    const place = `${format.file.name}: tensor "${format.name}"`;
    throw new LowrankError('the codes are laid out for a GPU', {
      place,
      expected: '0',
      mend: 'save the model again with a current bitsandbytes',
    });
  }
  tensors.delete(absmax.name);
  if (format) tensors.delete(format.name);
  tensors.set(codes.name, quantizedTensor(codes.name, 'INT8', codes.shape, { kind: 'i8', codes, absmax }));
}

/** One stored tensor whose numbers are decoded where it is read in another type. */
function quantizedTensor(name: string, dtype: string, shape: readonly number[], quantized: QuantizedParts): StoredTensor {
  const { codes, absmax } = quantized;
  const readInto: StoredTensor['readInto'] = async (to, write) => {
    const [bytes, scales] = [await codes.read(), await absmax.read()];
    const decode = await decoderOf(quantized, bytes, scales, shape[1]);
    return decodeNumbers(shape[0] * shape[1], decode, to, write);
  };
  const { file, offset, read } = codes;
  const byteLength = codes.byteLength + absmax.byteLength;
  return withReadAs({ name, dtype, shape, file, offset, byteLength, inPlace: false, read, readInto, quantized });
}

async function decoderOf(parts: QuantizedParts, codes: Uint8Array, scales: Uint8Array, columns: number) {
  const wide = () => new Float32Array(scales.slice().buffer);
  if (parts.kind === 'i8') {
    const [numbers, absmax] = [new Int8Array(codes.slice().buffer), wide()];
    return (first: number, target: Float32Array) => decodeRows(numbers, absmax, columns, first, target);
  }
  const constants = await parts.constants();
  const absmax = parts.absmax.dtype === 'U8' ? scales : wide();
  return (first: number, target: Float32Array) => decodeFourBit(codes, absmax, constants, first, target);
}

async function floats(tensor: StoredTensor): Promise<Float32Array> {
  return new Float32Array((await tensor.read()).slice().buffer);
}

/** A quantised matrix on its way into a file; `bytes` gives its parts when their turn comes. */
export interface QuantizedMatrix {
  readonly name: string;
  readonly shape: readonly number[];
  readonly kind: 'nf4' | 'fp4' | 'int8';
  readonly blockSize: number;
  /** Whether the scales are quantised. */
  readonly double: boolean;
  bytes(): Promise<QuantizedBytes>;
}

/** What a device holds of a quantised matrix (src/core/ops.table.ts). */
export interface QuantizedBytes {
  readonly codes: Uint8Array;
  readonly absmax: Uint8Array;
  readonly constants: Float32Array;
}

/** Room for a comma, a key and the digits of an f32 as JSON has them. */
const offsetWidth = `,"nested_offset":`.length + 26;

/** The tensors of a quantised matrix as bitsandbytes names them. `bytes` is asked once, for the first of them. */
export function encodeQuantized(matrix: QuantizedMatrix, nestedBlockSize: number): TensorToWrite[] {
  const { name, shape, kind, blockSize, double } = matrix;
  let made: Promise<QuantizedBytes> | undefined;
  const part = (suffix: string, dtype: string, extents: readonly number[], take: (bytes: QuantizedBytes) => Uint8Array): TensorToWrite => ({
    name: name + suffix,
    dtype,
    shape: extents,
    data: async () => take(await (made ??= matrix.bytes())),
  });
  if (kind === 'int8') {
    const path = name.replace(/\.weight$/, '');
    return [
      part('', 'I8', shape, ({ codes }) => codes),
      { ...part('', 'F32', [shape[0]], ({ absmax }) => absmax), name: `${path}.SCB` },
      { ...part('', 'U8', [], () => Uint8Array.of(0)), name: `${path}.weight_format` },
    ];
  }
  const size = shape[0] * shape[1];
  const blocks = Math.ceil(size / blockSize);
  const state = (constants?: Float32Array) => {
    const plain = { quant_type: kind, blocksize: blockSize, dtype: 'bfloat16', shape };
    const nested = {
      nested_blocksize: nestedBlockSize,
      nested_dtype: 'float32',
      nested_offset: constants && fourBitParts(constants).offset,
    };
    return new TextEncoder().encode(JSON.stringify(double ? { ...plain, ...nested } : plain));
  };
  // A file's header has the object's length before the mean is known: it ends with as many spaces as are left.
  const length = state().length + (double ? offsetWidth : 0);
  const padded = ({ constants }: QuantizedBytes) => {
    const result = new Uint8Array(length).fill(0x20);
    result.set(state(constants));
    return result;
  };
  const nested = [
    part('.nested_absmax', 'F32', [Math.ceil(blocks / nestedBlockSize)], ({ constants }) => bytesOf(fourBitParts(constants).nestedAbsmax)),
    part('.nested_quant_map', 'F32', [256], ({ constants }) => bytesOf(fourBitParts(constants).nestedValues)),
  ];
  return [
    part('', 'U8', [Math.ceil(size / 2), 1], ({ codes }) => codes),
    part('.absmax', double ? 'U8' : 'F32', [blocks], ({ absmax }) => absmax),
    part('.quant_map', 'F32', [16], ({ constants }) => bytesOf(fourBitParts(constants).values)),
    ...(double ? nested : []),
    part(`.quant_state.bitsandbytes__${kind}`, 'U8', [length], padded),
  ];
}

function bytesOf(numbers: Float32Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
}
