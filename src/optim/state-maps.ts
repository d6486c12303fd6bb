import type { Backend } from '../core/backend.js';
import { fromArray, type Tensor, zeros } from '../core/tensor.js';
import { binCodes, dynamicMap, smallest8bit, stateBlock } from '../quant/dynamic-map.js';

/** The tables between codes and numbers on a device: values [256] f32 and codes [65536] u8. */
export interface StateMap {
  readonly values: Tensor;
  readonly codes: Tensor;
}

/** The two maps of 8-bit states, made when they are first asked for; belongs to one optimizer. */
export class StateMaps {
  private readonly made = new Map<boolean, StateMap>();

  get(backend: Backend, signed: boolean): StateMap {
    const known = this.made.get(signed);
    if (known) return known;
    const numbers = dynamicMap(signed);
    const code = binCodes(numbers);
    const codes = zeros(backend, [code.length], 'u8', 'optimizer');
    codes.write(code);
    const map = { values: fromArray(backend, numbers, [numbers.length], 'f32', 'optimizer'), codes };
    this.made.set(signed, map);
    return map;
  }

  dispose(): void {
    for (const { values, codes } of this.made.values()) {
      values.dispose();
      codes.dispose();
    }
    this.made.clear();
  }
}

/** Whether a parameter's states are stored in 8 bits: not where it is small. */
export function inEightBits(parameter: Tensor, bits: 8 | 32): boolean {
  return bits === 8 && parameter.size >= smallest8bit;
}

/** A state of zeros, f32, of a parameter's shape. */
export function state32(parameter: Tensor): Tensor {
  return zeros(parameter.backend, parameter.shape, 'f32', 'optimizer');
}

/** A state of zeros in 8 bits: codes u8 of the parameter's shape and absmax f32, one for each block of 256 elements. */
export function state8(parameter: Tensor): { codes: Tensor; absmax: Tensor } {
  const { backend, shape, size } = parameter;
  return {
    codes: zeros(backend, shape, 'u8', 'optimizer'),
    absmax: zeros(backend, [Math.ceil(size / stateBlock)], 'f32', 'optimizer'),
  };
}
