import type { Backend } from '../core/backend.js';
import { fromArray, Storage, Tensor, zeros } from '../core/tensor.js';
import { binCodes, dynamicMap, smallest8bit, stateBlock } from '../quant/dynamic-map.js';

/** The tables between codes and numbers on a device: values [256] f32 and codes [65536] u8. */
export interface StateMap {
  readonly values: Tensor;
  readonly codes: Tensor;
}

/** Where paged states lie. */
export interface Paging {
  /** A local folder, for files without names that end with the optimizer. */
  readonly folder: string;
  /** Bytes of memory of the process above which states leave it after their update; without it, only when the system wants memory. */
  readonly limit?: number;
}

/** States of fewer elements are not paged, as in bitsandbytes. */
const smallestPaged = 1e5;

/** The memory of one optimizer: its states, paged or not, and the two maps of 8-bit ones, made when they are first asked for. */
export class StateMemory {
  private readonly made = new Map<boolean, StateMap>();
  private readonly states: Tensor[] = [];
  private readonly paged = new Set<Tensor>();
  private readonly paging?: Paging;

  constructor(paging?: Paging) {
    this.paging = paging;
  }

  /** A state of zeros, f32, of a parameter's shape. */
  state32({ backend, shape }: Tensor): Tensor {
    return this.zeros(backend, shape, 'f32');
  }

  /** A state of zeros in 8 bits: codes u8 of the parameter's shape and absmax f32, one for each block of 256 elements. */
  state8({ backend, shape, size }: Tensor): { codes: Tensor; absmax: Tensor } {
    return { codes: this.zeros(backend, shape, 'u8'), absmax: this.zeros(backend, [Math.ceil(size / stateBlock)], 'f32') };
  }

  /** Lets go of what a state holds in memory, where it is paged and there is a limit. */
  release(state: Tensor): void {
    if (this.paging?.limit !== undefined && this.paged.has(state)) state.backend.release?.(state, this.paging.limit);
  }

  /** A state of zeros that this memory owns. */
  zeros(backend: Backend, shape: readonly number[], dtype: 'f32' | 'u8'): Tensor {
    const tensor = this.allocate(backend, shape, dtype);
    this.states.push(tensor);
    return tensor;
  }

  private allocate(backend: Backend, shape: readonly number[], dtype: 'f32' | 'u8'): Tensor {
    const size = shape.reduce((product, n) => product * n, 1);
    if (!this.paging || size < smallestPaged || !backend.allocatePaged) return zeros(backend, shape, dtype, 'optimizer');
    const buffer = backend.allocatePaged(size * (dtype === 'f32' ? 4 : 1), 'optimizer', this.paging.folder);
    const tensor = new Tensor(new Storage(backend, buffer), 0, dtype, shape);
    this.paged.add(tensor);
    return tensor;
  }

  map(backend: Backend, signed: boolean): StateMap {
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
    for (const state of this.states.splice(0)) state.dispose();
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
