import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { binCodes, dynamicMap } from '../../src/quant/dynamic-map.js';

const sha256 = (values: Float32Array | Uint8Array) =>
  createHash('sha256')
    .update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
    .digest('hex');

// The bytes of bitsandbytes 0.50's create_dynamic_map(signed).numpy(), and of the codes that its C++ builds from it.
const theirs = [
  {
    signed: true,
    map: 'e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c',
    codes: 'dddf35d1312b15e686db8c06b6fd84f12bc2b68d7e0a3d87e70fd3af0d5561c3',
    ends: [-0.992968738079071, -0.9789062738418579, 0.992968738079071, 1],
  },
  {
    signed: false,
    map: '305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398',
    codes: 'f1ccf325221d26ca5e5ffe96a11288a5a0fdc5b361b880a0ccbc48fcdb928073',
    ends: [0, 3.2500003044333425e-7, 0.9964843988418579, 1],
  },
];

test.each(theirs)('the dynamic map, signed: $signed, has the bits of bitsandbytes’', ({ signed, map, codes, ends }) => {
  const numbers = dynamicMap(signed);
  expect([...numbers.subarray(0, 2), ...numbers.subarray(254)]).toEqual(ends);
  expect(sha256(numbers)).toBe(map);
  expect(sha256(binCodes(numbers))).toBe(codes);
});

test('a bin’s code is that of the nearest number', () => {
  const numbers = dynamicMap(true);
  const codes = binCodes(numbers);
  expect([codes[0], codes[65535]]).toEqual([0, 255]);
  for (let i = 0; i < codes.length; i += 97) {
    const value = -1 + (2 * i) / 65535;
    const distance = (code: number) => Math.abs(numbers[code] - value);
    const least = Math.min(...numbers.map((_, code) => distance(code)));
    expect(distance(codes[i])).toBeLessThanOrEqual(least + 2 ** -23);
  }
});
