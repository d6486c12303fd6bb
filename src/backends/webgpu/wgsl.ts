import type { DType } from '../../core/dtype.js';

/** What stands before every kernel: the stored numbers' bits as f32 and back, rounded to nearest even as src/util/half.ts does. */
export const prelude = /* wgsl */ `
fn bf16_bits(x: f32) -> u32 {
  let b = bitcast<u32>(x);
  if ((b & 0x7fffffffu) > 0x7f800000u) { return (b >> 16u) | 0x40u; }
  return ((b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u) & 0xffffu;
}
fn bf16_round(x: f32) -> f32 { return bitcast<f32>(bf16_bits(x) << 16u); }
fn f16_bits(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  let sign = (u >> 16u) & 0x8000u;
  let magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x477ff000u) { return sign | 0x7c00u; }
  if (magnitude < 0x38800000u) {
    let scaled = bitcast<f32>(magnitude) * 16777216.0;
    let below = floor(scaled);
    let rest = scaled - below;
    let whole = u32(below);
    return sign | (whole + select(0u, 1u, rest > 0.5 || (rest == 0.5 && (whole & 1u) == 1u)));
  }
  let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u);
  return sign | ((rounded - 0x38000000u) >> 13u);
}
fn f16_number(half: u32) -> f32 {
  let sign = (half & 0x8000u) << 16u;
  let exponent = (half >> 10u) & 31u;
  let mantissa = half & 1023u;
  if (exponent == 0u) { return bitcast<f32>(sign | bitcast<u32>(f32(mantissa) * 5.9604644775390625e-8)); }
  if (exponent == 31u) { return bitcast<f32>(sign | 0x7f800000u | (mantissa << 13u)); }
  return bitcast<f32>(sign | ((exponent + 112u) << 23u) | (mantissa << 13u));
}
`;

/** Elements of a dtype in a word of 32 bits. */
export const perWord: Readonly<Record<DType, number>> = { f32: 1, i32: 1, bf16: 2, f16: 2, u8: 4, i8: 4, u4: 8 };

/** How an element is got out of a buffer's words: `e` is its place in the buffer. */
const loads: Readonly<Record<DType, { type: string; read(memory: string): string }>> = {
  f32: { type: 'f32', read: (memory) => `bitcast<f32>(${memory}[e])` },
  i32: { type: 'i32', read: (memory) => `bitcast<i32>(${memory}[e])` },
  bf16: { type: 'f32', read: (memory) => `bitcast<f32>((${memory}[e >> 1u] >> ((e & 1u) * 16u)) << 16u)` },
  f16: { type: 'f32', read: (memory) => `f16_number((${memory}[e >> 1u] >> ((e & 1u) * 16u)) & 0xffffu)` },
  u8: { type: 'u32', read: (memory) => `(${memory}[e >> 2u] >> ((e & 3u) * 8u)) & 0xffu` },
  i8: { type: 'i32', read: (memory) => `bitcast<i32>(${memory}[e >> 2u] << (24u - (e & 3u) * 8u)) >> 24u` },
  // Two codes in a byte, the first in the upper half.
  u4: { type: 'u32', read: (memory) => `(${memory}[e >> 3u] >> (((e >> 1u) & 3u) * 8u + (1u - (e & 1u)) * 4u)) & 15u` },
};

/** `NAME_at(i)`: element i of an operand, floats as f32, codes as integers. `base` is its first element's place in the buffer. */
export function loader(name: string, dtype: DType, memory: string, base: string): string {
  const { type, read } = loads[dtype];
  return `fn ${name}_at(i: u32) -> ${type} { let e = ${base} + i; return ${read(memory)}; }\n`;
}

/**
 * How an operand is written. `NAME_set(i, v)` for elements of 32 bits; `NAME_put(i, v, both)` for any float writes elements i and i + 1, or
 * the first of them where `both` is false: for 16 bits i is even, so that a thread owns the whole word; `NAME_word(w, v)` writes the word
 * that begins at element w · 4 of bytes.
 */
export function storer(name: string, dtype: DType, memory: string, base: string): string {
  if (dtype === 'u8' || dtype === 'i8' || dtype === 'u4') {
    return `fn ${name}_word(w: u32, v: u32) { ${memory}[${base} / ${perWord[dtype]}u + w] = v; }\n`;
  }
  if (dtype === 'i32') return `fn ${name}_set(i: u32, v: i32) { ${memory}[${base} + i] = bitcast<u32>(v); }\n`;
  if (dtype === 'f32') {
    return `fn ${name}_set(i: u32, v: f32) { ${memory}[${base} + i] = bitcast<u32>(v); }
fn ${name}_put(i: u32, v: vec2f, both: bool) { ${name}_set(i, v.x); if (both) { ${name}_set(i + 1u, v.y); } }\n`;
  }
  const bits = dtype === 'bf16' ? 'bf16_bits' : 'f16_bits';
  return `fn ${name}_put(i: u32, v: vec2f, both: bool) {
  let w = (${base} + i) >> 1u;
  let upper = select(${memory}[w] & 0xffff0000u, ${bits}(v.y) << 16u, both);
  ${memory}[w] = ${bits}(v.x) | upper;
}\n`;
}
