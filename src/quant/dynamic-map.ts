/**
 * The 8-bit numbers of block-wise optimizer states (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", §2.1): a decimal
 * exponent whose length grows as the number falls, the rest of the bits linear.
 */

/** Elements that share a scale. */
export const stateBlock = 256;

/** Parameters of fewer elements keep 32-bit states, as in bitsandbytes. */
export const smallest8bit = 4096;

const exponents = 7;

/** `count` + 1 numbers from 0.1 to 1 at equal distances, counted from both ends in f32 as torch.linspace does. */
function boundaries(count: number): Float32Array {
  const [first, last] = [Math.fround(0.1), 1];
  const step = Math.fround(Math.fround(last - first) / count);
  // One rounding per number: the product of two f32 is exact in f64.
  const at = (i: number) => (2 * i < count + 1 ? first + step * i : last - step * (count - i));
  return Float32Array.from({ length: count + 1 }, (_, i) => at(i));
}

/**
 * The 256 ascending numbers [256] of the dynamic map: signed for a first moment, unsigned for a second. They equal the float32 values of
 * bitsandbytes' create_dynamic_map bit for bit. With e = 0 … 6, each decade 10^(e−6) holds the middles of 2^e (unsigned: 2^(e+1)) equal
 * parts of [0.1, 1], of both signs where signed; 0 and 1 are added.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const numbers = [0, 1];
  for (let e = 0; e < exponents; e++) {
    const edges = boundaries(2 ** e * (signed ? 1 : 2));
    const decade = Math.fround(10 ** (e - (exponents - 1)));
    for (let i = 0; i + 1 < edges.length; i++) {
      const middle = Math.fround(Math.fround(edges[i] + edges[i + 1]) / 2);
      const number = Math.fround(decade * middle);
      numbers.push(number);
      if (signed) numbers.push(-number);
    }
  }
  return Float32Array.from(numbers).sort();
}

/** Bins that [−1, 1] is cut into before a number becomes a code. */
export const bins = 65536;

/**
 * The code [65536] u8 of each bin, as bitsandbytes' CPU kernels look it up: that of the map's number nearest to the bin's middle
 * −1 + 2i/65535 in f32, the lower one of two at equal distance. `numbers` [256] ascend.
 */
export function binCodes(numbers: Float32Array): Uint8Array {
  const middles = Float32Array.from({ length: numbers.length - 1 }, (_, i) => 0.5 * Math.fround(numbers[i] + numbers[i + 1]));
  const codes = new Uint8Array(bins);
  let code = 0;
  for (let i = 0; i < bins; i++) {
    const value = Math.fround(-1 + Math.fround((2 * i) / (bins - 1)));
    while (code < middles.length && middles[code] < value) code++;
    codes[i] = code;
  }
  return codes;
}
