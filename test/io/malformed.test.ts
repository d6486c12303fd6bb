import { describe, expect, test } from 'vitest';
import { openGguf as openAny } from '../../src/io/gguf-model.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { openSafetensors } from '../../src/io/safetensors-shards.js';
import type { FileSource } from '../../src/io/source.js';
import { ggufLayouts } from '../../src/models/families.js';
import { LowrankError } from '../../src/util/errors.js';
import { GgufBuilder, tinyLlama, types } from './gguf-builder.js';

const openGguf = (file: FileSource) => openAny(file, ggufLayouts());

/** Bytes as a file of any claimed size; beyond them there are zeros. Counts what is read and whether it was closed. */
function fileOf(bytes: Uint8Array, size = bytes.length) {
  const state = { read: 0, largest: 0, closed: false };
  const source: FileSource = {
    name: 'file',
    size,
    async read(offset, length) {
      expect(offset + length).toBeLessThanOrEqual(size);
      state.largest = Math.max(state.largest, length);
      state.read += length;
      const result = new Uint8Array(length);
      result.set(bytes.subarray(offset, offset + length));
      return result;
    },
    close: async () => {
      state.closed = true;
    },
  };
  return { source, state };
}

/** No malformed file makes a reader take more than this at once. */
const largestRead = 2 << 20;

async function refuses(bytes: Uint8Array, open: (file: FileSource) => Promise<unknown>, message: RegExp, size?: number): Promise<void> {
  const { source, state } = fileOf(bytes, size);
  const error: unknown = await open(source).then(
    () => 'nothing was thrown',
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(LowrankError);
  const { place, mend, message: text } = error as LowrankError;
  expect(text).toMatch(message);
  expect(place).toMatch(/^file/);
  expect(mend).toBeTruthy();
  expect(state.closed).toBe(true);
  expect(state.largest).toBeLessThanOrEqual(largestRead);
}

const utf8 = (text: string) => new TextEncoder().encode(text);

/** A safetensors file with this header, as text or as an object, and so many bytes of data. */
function safetensors(header: unknown, dataBytes = 0, claimedLength?: number | bigint): Uint8Array {
  const text = header instanceof Uint8Array ? header : utf8(typeof header === 'string' ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(claimedLength ?? text.length), true);
  bytes.set(text, 8);
  return bytes;
}

const tensor = (begin: unknown, end: unknown, shape: unknown = [2], dtype: unknown = 'F32') => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});
const two = { a: tensor(0, 8), b: tensor(8, 16) };

describe('safetensors', () => {
  const cases: [string, Uint8Array, RegExp, number?][] = [
    ['an empty file', new Uint8Array(), /only 0 bytes long/],
    ['a few bytes', utf8('short'), /only 5 bytes long/],
    ['a header beyond the end', safetensors(two, 16, 5000), /header claims 5000 bytes/],
    ['a header of 2^63 bytes', safetensors(two, 16, 2n ** 63n), /header claims 9223372036854775808 bytes/],
    ['a header of gigabytes in a file of terabytes', safetensors(two, 16, 10 ** 10), /header claims 10000000000 bytes/, 10 ** 12],
    ['a header that is not UTF-8', safetensors(new Uint8Array([0x7b, 0xff, 0x7d])), /not UTF-8/],
    ['a header that is not JSON', safetensors('{"a": }'), /not valid JSON/],
    ['a header cut in the middle', safetensors('{"a": {"dtype": "F3'), /not valid JSON/],
    ['a header that is a list', safetensors('[]'), /header is not a JSON object/],
    ['deep nesting', safetensors(`{"a":${'['.repeat(100_000)}`), /nested deeper than/],
    ['a prototype key', safetensors('{"__proto__": {"dtype":"F32","shape":[],"data_offsets":[0,4]}}', 4), /__proto__/],
    ['a key twice', safetensors(`{"a":${JSON.stringify(tensor(0, 8))},"\\u0061":${JSON.stringify(tensor(0, 8))}}`, 8), /"a" appears twice/],
    ['an entry that is no object', safetensors({ a: 5 }), /"a" is not an object/],
    ['metadata that is no text', safetensors({ __metadata__: { format: 1 } }), /not an object of strings/],
    ['an unknown dtype', safetensors({ a: tensor(0, 8, [2], 'F33') }, 8), /dtype "F33" is unknown/],
    ['an inherited name as dtype', safetensors({ a: tensor(0, 8, [2], 'constructor') }, 8), /dtype "constructor" is unknown/],
    ['a dtype that is no text', safetensors({ a: tensor(0, 8, [2], 4) }, 8), /dtype 4 is unknown/],
    ['a negative size', safetensors({ a: tensor(0, 8, [-2]) }, 8), /shape \[-2\]/],
    ['a fractional size', safetensors({ a: tensor(0, 8, [0.5]) }, 8), /shape \[0.5\]/],
    ['a shape that is no list', safetensors({ a: tensor(0, 8, 2) }, 8), /shape 2/],
    ['a shape of a hundred dimensions', safetensors({ a: tensor(0, 4, Array(100).fill(1)) }, 4), /not a list of sizes/],
    ['a shape that overflows', safetensors({ a: tensor(0, 8, [2 ** 40, 2 ** 40]) }, 8), /holds 8 bytes/],
    ['a shape larger than the bytes', safetensors({ a: tensor(0, 8, [3]) }, 8), /holds 8 bytes[\s\S]*12 bytes for F32 \[3\]/],
    ['a negative offset', safetensors({ a: tensor(-8, 0) }, 8), /data_offsets \[-8,0\] do not fit/],
    ['a fractional offset', safetensors({ a: tensor(0.5, 8.5) }, 16), /data_offsets \[0.5,8.5\] do not fit/],
    ['an end before the begin', safetensors({ a: tensor(8, 0) }, 8), /data_offsets \[8,0\] do not fit/],
    ['an end beyond the file', safetensors({ a: tensor(0, 8) }, 7), /do not fit the file/],
    ['an end beyond 2^53', safetensors({ a: tensor(0, 1e300) }, 8), /do not fit the file/],
    ['one offset', safetensors({ a: { dtype: 'F32', shape: [0], data_offsets: [0] } }), /do not fit the file/],
    ['overlapping tensors', safetensors({ a: tensor(0, 8), b: tensor(4, 12) }, 12), /"b": overlaps/],
    ['equal places', safetensors({ a: tensor(0, 8), b: tensor(0, 8) }, 8), /overlaps/],
    ['a hole', safetensors({ a: tensor(0, 8), b: tensor(12, 20) }, 20), /leaves 4 bytes unused/],
    ['bytes after the last tensor', safetensors(two, 20), /4 bytes after the last tensor/],
  ];
  test.each(cases)('%s', async (_, bytes, message, size) => refuses(bytes, readSafetensors, message, size));

  test('the sound ones are read, and integers refuse to become weights', async () => {
    const checkpoint = await readSafetensors(fileOf(safetensors({ ...two, c: tensor(16, 24, [1], 'I64') }, 24)).source);
    expect(await checkpoint.tensors.get('b')!.readAs('bf16')).toEqual(new Uint8Array(4));
    await expect(checkpoint.tensors.get('c')!.readAs('f32')).rejects.toThrow('dtype I64 holds no floating-point weights');
  });
});

describe('an index of shards', () => {
  const shards: Record<string, Uint8Array> = {
    's1.safetensors': safetensors({ a: tensor(0, 8) }, 8),
    's2.safetensors': safetensors(two, 16),
  };
  const index = (map: unknown) => JSON.stringify({ weight_map: map });
  const cases: [string, string, RegExp][] = [
    ['not JSON', '{', /not valid JSON/],
    ['no weight_map', '{}', /weight_map is not an object/],
    ['an empty map', index({}), /weight_map is not an object with entries/],
    ['a file that is no text', index({ a: 1 }), /"a" lies in 1/],
    ['a path upwards', index({ a: '../s1.safetensors' }), /lies in "\.\.\/s1\.safetensors"/],
    ['an absolute path', index({ a: '/etc/s1.safetensors' }), /lies in "\/etc/],
    ['another kind of file', index({ a: 'model.bin' }), /lies in "model.bin"/],
    ['a missing shard', index({ a: 's3.safetensors' }), /s3.safetensors is missing/],
    ['a tensor that is not there', index({ a: 's1.safetensors', c: 's1.safetensors' }), /"c" is not in s1.safetensors/],
    ['a tensor that is not mapped', index({ a: 's2.safetensors' }), /s2.safetensors holds tensor "b"/],
    ['a tensor in two shards', index({ a: 's1.safetensors', b: 's2.safetensors' }), /s2.safetensors holds tensor "a"/],
  ];
  test.each(cases)('%s', async (_, text, message) => {
    const opened: ReturnType<typeof fileOf>['state'][] = [];
    const files = { ...shards, 'model.safetensors.index.json': utf8(text) };
    const open = async (name: string) => {
      if (!Object.hasOwn(files, name)) return undefined;
      const { source, state } = fileOf(files[name as keyof typeof files]);
      opened.push(state);
      return source;
    };
    const error = await openSafetensors({ name: 'folder', open }).catch((thrown) => thrown);
    expect(error).toBeInstanceOf(LowrankError);
    expect(error.message).toMatch(message);
    expect(error.place).toMatch(/^folder\/model\.safetensors\.index\.json/);
    expect(error.mend).toBeTruthy();
    expect(opened.every((state) => state.closed)).toBe(true);
  });
});

describe('GGUF', () => {
  const u64 = (value: bigint) => new Uint8Array(new BigUint64Array([value]).buffer);
  const builder = () => new GgufBuilder();
  const bigEndian = () => {
    const bytes = builder().build();
    bytes.set([0, 0, 0, 3], 4);
    return bytes;
  };
  const array = (type: number, length: bigint) => new Uint8Array([...new Uint8Array(new Uint32Array([type]).buffer), ...u64(length)]);
  const one = (size: bigint, type = types.F32, offset = 0n) => builder().tensor('t', [size], type, offset);
  const cases: [string, Uint8Array, RegExp, number?][] = [
    ['an empty file', new Uint8Array(), /header: needs 24 bytes where 0 are left/],
    ['another kind of file', safetensors({ ...two, c: 'x'.repeat(20) }), /does not begin with "GGUF"/],
    ['a magic in the other order', utf8('FUGG'.padEnd(40)), /is big-endian/],
    ['a big-endian version', bigEndian(), /is big-endian[\s\S]*little-endian/],
    ['version 1', builder().version(1).build(), /GGUF version 1[\s\S]*convert the model again/],
    ['version 99', builder().version(99).build(), /GGUF version 99/],
    [
      'a false count of tensors',
      builder()
        .counts(2n ** 60n, 0n)
        .build(),
      /claims 11529215046\d+ tensors/,
    ],
    ['a false count of pairs', builder().counts(0n, 1000n).build(), /claims 1000 key-value pairs/],
    [
      'more pairs than any file has',
      builder()
        .counts(0n, 2n ** 32n)
        .build(),
      /claims 4294967296 key-value pairs/,
      1e12,
    ],
    ['one pair more than there are', builder().counts(0n, 1n).pad(20).build(), /needs|unknown type|metadata/],
    [
      'a key longer than the file',
      builder()
        .counts(0n, 1n)
        .raw(u64(1n << 40n))
        .pad(9)
        .build(),
      /key 0: needs 1099511627776 bytes/,
    ],
    [
      'a key of gigabytes in a file of terabytes',
      builder()
        .counts(0n, 1n)
        .raw(u64(1n << 34n))
        .build(),
      /goes beyond 268435456 bytes of metadata/,
      1e12,
    ],
    [
      'a key of 2^64 − 1 bytes',
      builder()
        .counts(0n, 1n)
        .raw(u64(2n ** 64n - 1n))
        .pad(9)
        .build(),
      /key 0: needs/,
    ],
    [
      'a key that is not UTF-8',
      builder()
        .pair(new Uint8Array([0xc3, 0x28]), 4, new Uint8Array(4))
        .build(),
      /key 0: not UTF-8/,
    ],
    ['a key twice', builder().u32('k', 1).u32('k', 2).build(), /metadata "k": appears twice/],
    ['an unknown value type', builder().pair('k', 13, new Uint8Array(8)).build(), /"k": has the unknown type 13/],
    [
      'a string longer than the file',
      builder()
        .pair('k', 8, u64(1n << 50n))
        .build(),
      /"k": needs 1125899906842624 bytes/,
    ],
    [
      'an array longer than the file',
      builder()
        .pair('k', 9, array(4, 1n << 40n))
        .build(),
      /claims 1099511627776 elements of metadata "k"/,
    ],
    [
      'an array longer than any file has',
      builder()
        .pair('k', 9, array(0, 1n << 30n))
        .build(),
      /claims 1073741824 elements/,
      1e12,
    ],
    ['an array of arrays', builder().pair('k', 9, array(9, 1n)).pad(64).build(), /"k": is an array of arrays/],
    ['an array of an unknown type', builder().pair('k', 9, array(77, 1n)).pad(64).build(), /"k": has the unknown type 77/],
    ['an alignment of 0', builder().u32('general.alignment', 0).build(), /"general.alignment": is 0[\s\S]*power of two/],
    ['an alignment of 33', builder().u32('general.alignment', 33).build(), /"general.alignment": is 33/],
    ['an alignment that is text', builder().string('general.alignment', '32').build(), /"general.alignment": is 32/],
    ['a tensor without dimensions', builder().tensor('t', [], types.F32, 0n).pad(64).build(), /tensor "t": has 0 dimensions/],
    ['a tensor of five dimensions', builder().tensor('t', [1n, 1n, 1n, 1n, 1n], types.F32, 0n).pad(64).build(), /has 5 dimensions/],
    ['a size of 0', one(0n).data(64).build(), /has the shape \[0\]/],
    [
      'sizes that overflow',
      builder()
        .tensor('t', [1n << 40n, 1n << 40n], types.F32, 0n)
        .data(64)
        .build(),
      /has the shape/,
    ],
    [
      'a size of 2^64 − 1',
      one(2n ** 64n - 1n)
        .data(64)
        .build(),
      /has the shape/,
    ],
    ['an unknown tensor type', one(32n, 999).data(64).build(), /"t": has the unknown type 999/],
    ['a type that cannot be read', one(256n, 16).data(66).build(), /type IQ2_XXS, which cannot be read[\s\S]*Q4_K[\s\S]*take another file/],
    ['rows that are no whole blocks', one(33n, types.Q4_1).data(64).build(), /rows of 33 elements[\s\S]*multiple of 32 for Q4_1/],
    ['a misaligned offset', one(4n, types.F32, 4n).data(64).build(), /begins at 4[\s\S]*multiple of 32/],
    [
      'an offset beyond the file',
      one(4n, types.F32, 1n << 50n)
        .data(64)
        .build(),
      /ends at byte/,
    ],
    [
      'an offset of 2^64 − 32',
      one(4n, types.F32, 2n ** 64n - 32n)
        .data(64)
        .build(),
      /ends at byte/,
    ],
    ['data cut short', one(16n).data(63).build(), /ends at byte/],
    [
      'overlapping tensors',
      builder().tensor('a', [16n], types.F32, 0n).tensor('b', [16n], types.F32, 32n).data(128).build(),
      /"b": overlaps/,
    ],
    ['a tensor twice', builder().tensor('a', [8n], types.F32, 0n).tensor('a', [8n], types.F32, 32n).data(64).build(), /"a": appears twice/],
    [
      'a gap between tensors',
      builder().tensor('a', [16n], types.F32, 0n).tensor('b', [16n], types.F32, 128n).data(192).build(),
      /"b": leaves 64 bytes unused before it/,
    ],
    ['bytes after the last tensor', one(16n).data(96).build(), /: 32 bytes after the last tensor/],
    ['no architecture', builder().build(), /"general.architecture": is missing/],
    ['an architecture that is a number', builder().u32('general.architecture', 1).build(), /is 1[\s\S]*a string/],
    ['another architecture', builder().string('general.architecture', 'mamba').build(), /"mamba" cannot be read from GGUF/],
    [
      'one part of several under another name',
      builder().string('general.architecture', 'llama').u32('split.count', 3).build(),
      /is one of 3 parts, and its name does not say which[\s\S]*-00001-of-00003\.gguf[\s\S]*llama-gguf-split/,
    ],
    ['no layers', tinyLlama({ 'llama.block_count': undefined }), /"llama.block_count": is missing/],
    ['no heads', tinyLlama({ 'llama.attention.head_count': 0 }), /"llama.attention.head_count": is 0/],
    ['heads that do not divide the rows', tinyLlama({ 'llama.attention.head_count': 3, 'llama.attention.key_length': 4 }), /has 8 rows/],
    ['a rotation of part of a head', tinyLlama({ 'llama.rope.dimension_count': 2 }), /"llama.rope.dimension_count": is 2/],
    [
      'an unknown scaling',
      tinyLlama({ 'llama.rope.scaling.type': 'magic', 'llama.rope.scaling.factor': 2 }),
      /is "magic"[\s\S]*linear or yarn/,
    ],
    ['an embedding that is missing', tinyLlama({}, ['token_embd.weight']), /there is no tensor "token_embd.weight"/],
    [
      'a tensor of another kind of model',
      tinyLlama({}, [], ['blk.0.ffn_gate_exps.weight']),
      /ffn_gate_exps.weight": has no place in the architecture "llama"/,
    ],
    ['rotary divisors of another scaling', tinyLlama({}, [], ['rope_freqs.weight']), /"rope_freqs.weight": is not a scaling of Llama 3/],
    ['an unknown tokenizer', tinyLlama({ 'tokenizer.ggml.model': 'bert' }), /"tokenizer.ggml.model": is "bert"/],
    ['an unknown pre-tokenizer', tinyLlama({ 'tokenizer.ggml.pre': 'llama-bep' }), /"tokenizer.ggml.pre": is "llama-bep"[\s\S]*llama-bpe/],
    ['tokens that are numbers', tinyLlama({ 'tokenizer.ggml.tokens': [1, 2] }), /"tokenizer.ggml.tokens": is a list[\s\S]*strings/],
    ['fewer types than tokens', tinyLlama({ 'tokenizer.ggml.token_type': [1] }), /has 1 entries[\s\S]*4, one for each token/],
    [
      'a special token beyond the vocabulary',
      tinyLlama({ 'tokenizer.ggml.eos_token_id': 4 }),
      /"tokenizer.ggml.eos_token_id": is 4[\s\S]*below 4/,
    ],
    [
      'more tokens than rows of the embedding',
      tinyLlama({ 'tokenizer.ggml.tokens': ['a', 'b', 'ab', '<end>', 'c'], 'tokenizer.ggml.token_type': [1, 1, 1, 3, 1] }),
      /"token_embd.weight": has 4 rows\n[^\n]*5, a row for each token/,
    ],
    ['a head of another vocabulary', tinyLlama({}, [], ['output.weight']), /"output.weight": has 8 rows\n[^\n]*4, a row/],
    ['a vocabulary size of another file', tinyLlama({ 'llama.vocab_size': 7 }), /"llama.vocab_size": is 7\n[^\n]*4, the number of tokens/],
    ['a merge without a space', tinyLlama({ 'tokenizer.ggml.merges': ['ab'] }), /entry 0, "ab", is not a pair/],
    ['a merge of what is no token', tinyLlama({ 'tokenizer.ggml.merges': ['a b', 'a c'] }), /entry 1, "a c", is not a pair/],
    ['scores that are missing', tinyLlama({ 'tokenizer.ggml.model': 'llama' }), /"tokenizer.ggml.scores": is missing/],
  ];
  test.each(cases)('%s', async (_, bytes, message, size) => refuses(bytes, openGguf, message, size));

  test('the sound one is read', async () => {
    const source = await openGguf(fileOf(tinyLlama()).source);
    expect(source.config).toMatchObject({
      num_hidden_layers: 1,
      vocab_size: 4,
      eos_token_id: 3,
      rope_parameters: { rope_type: 'default' },
    });
  });

  test('every truncation of a sound file is refused', async () => {
    const whole = tinyLlama();
    for (let length = 0; length < whole.length; length += 7) await refuses(whole.subarray(0, length), openGguf, /./);
  });
});
