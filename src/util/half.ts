/** Conversions between f32 and the two 16-bit floats, rounding to nearest even as hardware does. */

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The bf16 bits of a number: the upper half of its f32, rounded to nearest even; NaN stays NaN. */
export function toBf16(value: number): number {
  float[0] = value;
  const u = bits[0];
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40;
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that bf16 bits stand for. */
export function fromBf16(half: number): number {
  bits[0] = half << 16;
  return float[0];
}

/** The f16 bits (IEEE 754 binary16) of a number, rounded to nearest even; overflow becomes infinity. */
export function toF16(value: number): number {
  float[0] = value;
  const u = bits[0];
  const sign = (u >>> 16) & 0x8000;
  const magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: scale so that the unit is 2^-24, then let the f32 addition round.
    bits[0] = magnitude;
    const scaled = float[0] * 16777216;
    const floor = Math.floor(scaled);
    const rest = scaled - floor;
    return sign | (floor + (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? 1 : 0));
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

/** The number that f16 bits stand for. */
export function fromF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

let halves: Float32Array | undefined;

/** Every f16 as a number, by its bits: a look-up is several times faster than taking the bits apart. */
export function f16Table(): Float32Array {
  halves ??= Float32Array.from({ length: 65536 }, (_, half) => fromF16(half));
  return halves;
}

export function bf16ToF32(source: Uint16Array): Float32Array {
  const result = new Float32Array(source.length);
  const target = new Uint32Array(result.buffer);
  for (let i = 0; i < source.length; i++) target[i] = source[i] << 16;
  return result;
}

export function f32ToBf16(source: Float32Array): Uint16Array {
  const result = new Uint16Array(source.length);
  for (let i = 0; i < source.length; i++) result[i] = toBf16(source[i]);
  return result;
}

export function f16ToF32(source: Uint16Array): Float32Array {
  const numbers = f16Table();
  const result = new Float32Array(source.length);
  for (let i = 0; i < source.length; i++) result[i] = numbers[source[i]];
  return result;
}

export function f32ToF16(source: Float32Array): Uint16Array {
  const result = new Uint16Array(source.length);
  for (let i = 0; i < source.length; i++) result[i] = toF16(source[i]);
  return result;
}
