import type { DType } from '../../../core/dtype.js';
import { floats } from '../../../core/operand.js';
import { fourBitConstantsSize, fourBitLayout } from '../../../quant/four-bit.js';
import type { GpuOps } from '../context.js';
import type { GpuOperand } from '../kernel.js';
import { runMap } from './elementwise.js';

/** The dtypes that a weight may have. */
export const weightTypes: readonly DType[] = [...floats, 'u4', 'i8'];

/** Throws unless a weight's scales fit it. Gives what its decoder needs to know. */
export function checkWeight(weight: GpuOperand, absmax: GpuOperand | undefined, constants: GpuOperand | undefined): void {
  if (weight.dtype !== 'u4' && weight.dtype !== 'i8') return;
  if (!absmax) weight.refuse('the weight has no absmax');
  if (weight.dtype === 'i8') {
    absmax.check(['f32'], [weight.shape[0]]);
    return;
  }
  if (!constants) weight.refuse('the weight has no constants');
  const least = fourBitConstantsSize();
  if (constants.check(['f32'], [-1]).size < least) constants.refuse(`has ${constants.size} numbers`, `at least ${least}`);
  absmax.check(constants.size > least ? ['u8'] : ['f32'], [-1]);
}

/**
 * `NAME_number(e)`: element e of a weight, quantised or not, as the op table has it. An i8 weight has `p.inputs` columns.
 */
export function decoder(name: string, dtype: DType | undefined, absmax: DType | undefined): string {
  const at = fourBitLayout;
  if (dtype === 'i8')
    return `fn ${name}_number(e: u32) -> f32 { return f32(${name}_at(e)) * absmax_at(e / p.inputs) * 0.007874015718698502; }\n`;
  if (dtype !== 'u4') return `fn ${name}_number(e: u32) -> f32 { return ${name}_at(e); }\n`;
  const scale =
    absmax === 'u8'
      ? `constants_at(${at.nestedValues}u + absmax_at(block))
      * constants_at(${at.nestedAbsmax}u + block / u32(constants_at(${at.nestedBlockSize}u)))
      + constants_at(${at.offset}u)`
      : 'absmax_at(block)';
  return `fn ${name}_number(e: u32) -> f32 {
  let block = e / u32(constants_at(${at.blockSize}u));
  let scale = ${scale};
  return constants_at(${at.values}u + ${name}_at(e)) * scale;
}\n`;
}

export const quantizers: GpuOps<'dequantize'> = {
  dequantize: ({ weight, absmax, constants }, { out }, _, context) => {
    const [, inputs] = weight.check(['u4', 'i8'], [-1, -1]).shape;
    checkWeight(weight, absmax, constants);
    out.check([...floats, 'f16'], weight.shape);
    const reads = constants ? { weight, absmax, constants } : { weight, absmax };
    const globals = decoder('weight', weight.dtype, absmax.dtype);
    runMap(context, { reads, writes: { out }, formulas: 'out=weight_number(i)', integers: { inputs }, globals });
  },
};
