/** Element types of tensors on a device. Weights and activations are f32 or bf16; ids are i32; packed weights are u8. */
export type DType = 'f32' | 'bf16' | 'f16' | 'i32' | 'u8';

export const bytesPerElement: Readonly<Record<DType, number>> = { f32: 4, bf16: 2, f16: 2, i32: 4, u8: 1 };

/** The code of a dtype in the addon's calls: its place in this list (`native/kernels/tensor.h` has the same order). */
export const dtypeCodes: readonly DType[] = ['f32', 'bf16', 'f16', 'i32', 'u8'];
