/**
 * Element types of tensors on a device. Weights and activations are f32 or bf16; ids are i32; bytes are u8. `u4` (two codes per byte, the
 * first in the upper half) and `i8` are the codes of quantised weights.
 */
export type DType = 'f32' | 'bf16' | 'f16' | 'i32' | 'u8' | 'i8' | 'u4';

const bitsPerElement: Readonly<Record<DType, number>> = { f32: 32, bf16: 16, f16: 16, i32: 32, u8: 8, i8: 8, u4: 4 };

/** The memory of so many elements; the last byte of u4 may be half used. */
export function bytesOf(dtype: DType, elements: number): number {
  return Math.ceil((elements * bitsPerElement[dtype]) / 8);
}

/** The code of a dtype in the addon's calls: its place in this list (`native/kernels/tensor.h` has the same order). */
export const dtypeCodes: readonly DType[] = ['f32', 'bf16', 'f16', 'i32', 'u8', 'i8', 'u4'];
