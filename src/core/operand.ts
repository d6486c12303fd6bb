import { LowrankError } from '../util/errors.js';
import type { DeviceBuffer, TensorView } from './backend.js';
import { bytesOf, type DType } from './dtype.js';
import { type OpName, opDeclarations, operand } from './ops.table.js';
import { elementsOf } from './tensor.js';

export const floats: readonly DType[] = ['f32', 'bf16'];

/** One operand of a call: a tensor with its name, checked against the op table by whoever runs the op. */
export class Operand<B extends DeviceBuffer = DeviceBuffer> {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly size: number;
  /** In bytes from the buffer's start. */
  readonly offset: number;
  readonly buffer: B;
  protected readonly place: string;

  /** `place` is the op and the operand's name, for errors. Throws where the view is not inside its buffer. */
  constructor(place: string, { offset, dtype, shape }: TensorView, buffer: B) {
    this.place = place;
    this.dtype = dtype;
    this.shape = shape;
    this.size = elementsOf(shape);
    this.offset = offset;
    this.buffer = buffer;
    checkRange(buffer, offset, this.bytes, place);
    if (offset % bytesOf(dtype, 1) !== 0) this.refuse(`the offset ${offset} is not aligned to ${dtype}`);
  }

  get bytes(): number {
    return bytesOf(this.dtype, this.size);
  }

  /** Throws unless the operand has one of the dtypes and the shape; −1 stands for any size, no shape for any. */
  check(dtypes: readonly DType[], shape?: readonly number[]): this {
    if (!dtypes.includes(this.dtype)) this.refuse(`is ${this.dtype}`, dtypes.join(' or '));
    const fits = !shape || (shape.length === this.shape.length && shape.every((n, i) => n === -1 || n === this.shape[i]));
    if (!fits) this.refuse(`has shape [${this.shape}]`, `[${shape.map((n) => (n === -1 ? '·' : n))}]`);
    return this;
  }

  refuse(problem: string, expected?: string): never {
    throw this.problem(problem, expected);
  }

  /** The error that `refuse` throws, for what is found out later. */
  problem(problem: string, expected?: string): LowrankError {
    return new LowrankError(problem, { place: this.place, expected });
  }

  /** Whether any byte of the operand is one of the other's. */
  overlaps(other: Operand): boolean {
    const end = ({ offset, bytes }: Operand) => offset + bytes;
    return this.buffer === other.buffer && Math.max(this.offset, other.offset) < Math.min(end(this), end(other));
  }

  /** Whether both are the same elements of the same memory. */
  equals({ buffer, offset, dtype, shape }: Operand): boolean {
    const alike = shape.length === this.shape.length && shape.every((n, i) => n === this.shape[i]);
    return buffer === this.buffer && offset === this.offset && dtype === this.dtype && alike;
  }
}

/** Throws unless bytes [offset, offset + length) are inside the buffer. */
export function checkRange({ bytes }: DeviceBuffer, offset: number, length: number, place: string): void {
  if (offset >= 0 && length >= 0 && offset + length <= bytes) return;
  throw new LowrankError(`bytes ${offset} … ${offset + length} of a buffer of ${bytes}`, { place });
}

/**
 * Throws where an output shares memory with another operand in a way that the op table does not allow: not every device computes the right
 * thing then.
 */
export function checkSharing(op: OpName, inputs: Readonly<Record<string, Operand>>, outputs: Readonly<Record<string, Operand>>): void {
  for (const [name, output] of Object.entries(outputs)) {
    const allowed = opDeclarations[op].inPlace?.[name] ?? [];
    for (const [other, input] of Object.entries(inputs)) {
      if (output.overlaps(input) && !(allowed.includes(other) && output.equals(input))) {
        output.refuse(
          `shares memory with ${other}`,
          allowed.length > 0 ? `memory of its own or all of ${allowed.join(' or ')}` : 'memory of its own',
        );
      }
    }
    for (const [other, second] of Object.entries(outputs)) {
      if (other !== name && output.overlaps(second)) output.refuse(`shares memory with ${other}`, 'memory of its own');
    }
  }
}

/** The operands of a call by name, as the op table declares them, made by `make`. Throws where one that is not optional is missing. */
export function operandsOf<O>(
  op: OpName,
  declared: readonly string[],
  views: Readonly<Record<string, TensorView | undefined>>,
  make: (place: string, view: TensorView) => O,
): Record<string, O> {
  const operands: Record<string, O> = {};
  for (const { name, optional } of declared.map(operand)) {
    const view = views[name];
    if (view) operands[name] = make(`${op}: ${name}`, view);
    else if (!optional) throw new LowrankError(`operand "${name}" is missing`, { place: op });
  }
  return operands;
}
