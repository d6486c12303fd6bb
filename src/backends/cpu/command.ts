import type { TensorView } from '../../core/backend.js';
import { dtypeCodes } from '../../core/dtype.js';
import { checkAttributes } from '../../core/ops.attributes.js';
import { activationKinds, type OpName, opDeclarations, operand } from '../../core/ops.table.js';
import { LowrankError } from '../../util/errors.js';
import type { CpuBuffer } from './index.js';

/** Numbers per operand: buffer (−1 where absent), offset in bytes, dtype, rank, four extents. */
const operandFields = 8;

interface Layout {
  readonly code: number;
  readonly inputs: readonly { name: string; optional: boolean }[];
  readonly outputs: readonly { name: string; optional: boolean }[];
  readonly attributes: readonly string[];
}

const layouts = Object.fromEntries(
  Object.entries(opDeclarations).map(([name, { inputs, outputs, attributes }], code): [string, Layout] => [
    name,
    { code, inputs: inputs.map(operand), outputs: outputs.map(operand), attributes: Object.keys(attributes) },
  ]),
) as Record<OpName, Layout>;

const codeOf = Object.fromEntries(dtypeCodes.map((dtype, code) => [dtype, code])) as Record<string, number>;

/** An attribute as the addon's generated header reads it: a flag as 0 or 1, a kind of activation as its place in the list. */
function numberOf(attribute: number | boolean | string): number {
  return typeof attribute === 'string' ? (activationKinds as readonly string[]).indexOf(attribute) : Number(attribute);
}

/**
 * Writes one op's call into `command` as the addon reads it: the op's number, its inputs, its outputs, its attributes.
 * `own` throws for a buffer that is not one of the backend's.
 */
export function encode(
  command: Float64Array,
  op: OpName,
  inputs: Readonly<Record<string, TensorView | undefined>>,
  outputs: Readonly<Record<string, TensorView | undefined>>,
  attributes: Readonly<Record<string, number | boolean | string>>,
  own: (view: TensorView) => CpuBuffer,
): void {
  checkAttributes(op, attributes);
  const layout = layouts[op];
  let at = 0;
  command[at++] = layout.code;
  const put = (views: Readonly<Record<string, TensorView | undefined>>, operands: Layout['inputs']) => {
    for (const { name, optional } of operands) {
      const view = views[name];
      if (!view && !optional) throw new LowrankError(`operand "${name}" is missing`, { place: op });
      command[at] = view ? own(view).id : -1;
      if (view) encodeView(command, at, op, view);
      at += operandFields;
    }
  };
  put(inputs, layout.inputs);
  put(outputs, layout.outputs);
  for (const name of layout.attributes) command[at++] = numberOf(attributes[name]);
}

function encodeView(command: Float64Array, at: number, op: OpName, { offset, dtype, shape }: TensorView): void {
  if (shape.length > 4)
    throw new LowrankError(`a tensor of shape [${shape}] has too many dimensions`, { place: op, expected: 'at most 4' });
  command[at + 1] = offset;
  command[at + 2] = codeOf[dtype];
  command[at + 3] = shape.length;
  for (let i = 0; i < shape.length; i++) command[at + 4 + i] = shape[i];
}
