import type { Random } from '#lowrank/util/philox.js';

/** Changes a file's content in one place, so that most of it stays what it was. */
export type Mutator = (content: Uint8Array, random: Random) => Uint8Array;

export const draw = (random: Random, below: number): number => Math.floor(random.next() * below);
export const pick = <T>(random: Random, list: readonly T[]): T => list[draw(random, list.length)];

const numbers = [
  0,
  -0,
  1,
  -1,
  2,
  3,
  7,
  255,
  256,
  65_535,
  0.5,
  -1.5,
  1e-9,
  1e6,
  16_777_216,
  2 ** 31,
  2 ** 32 - 1,
  4e9,
  2 ** 53,
  1e20,
  1e308,
  -1e308,
];
const texts = [
  ['', ' ', 'a', '\0', '\n', '\ud800', '🎉', 'e\u0301', 'null', '-1', '0', 'true'],
  ['__proto__', 'constructor', 'toString', 'length', '../../etc/passwd', '/', '.', 'https://localhost', '%s%n', '$&$1', "'"],
  ['(a+)+$', '(a|aa)+$', '\\s*x', '(?i:a)', '[', '\\p{L}+', '(?<x>a)\\k<x>', '.*'],
  ['{{ messages }}', '{% for a in range(99999) %}', '{%', '}}', '<s>', '<0x41>', '▁', '[UNK]'],
].flat();

/** A text that is long in one of several ways. */
const longText = (random: Random): string =>
  pick(random, ['a', ' ', '(', '[', '{', '\n', '"', '\\', '🎉', 'ab ']).repeat(pick(random, [100, 5000, 50_000]));

const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Bytes: flipped, set, cut, taken out, put in, doubled; and whole numbers of two to eight bytes that mean much. */
export const mutateBytes: Mutator = (content, random) => {
  const at = draw(random, content.length + 1);
  const length = Math.min(content.length - at, pick(random, [1, 2, 4, 8, 32, 512, 10_000]));
  const splice = (remove: number, insert: Uint8Array): Uint8Array => {
    const result = new Uint8Array(content.length - remove + insert.length);
    result.set(content.subarray(0, at));
    result.set(insert, at);
    result.set(content.subarray(at + remove), at + insert.length);
    return result;
  };
  const some = Uint8Array.from({ length: pick(random, [1, 2, 4, 8, 64]) }, () => draw(random, 256));
  switch (draw(random, 8)) {
    case 0:
      return splice(length, new Uint8Array());
    case 1:
      return splice(0, content.slice(at, at + length));
    case 2:
      return splice(0, some);
    case 3:
      return content.slice(0, at);
    case 4:
      return splice(length, new Uint8Array(length).fill(pick(random, [0, 255, 0x7f, 0x20])));
    case 5:
      return setNumber(content, Math.max(0, Math.min(at, content.length - 8)), pick(random, [2, 4, 8]), random);
    default: {
      const copy = content.slice();
      if (at < copy.length) copy[at] ^= 1 << draw(random, 8);
      return copy;
    }
  }
};

/** A whole number or, of four bytes, perhaps an f32, little-endian. */
export function setNumber(content: Uint8Array, at: number, bytes: number, random: Random): Uint8Array {
  const copy = content.slice();
  if (at + bytes > copy.length) return copy;
  const view = new DataView(copy.buffer);
  const value = draw(random, 3) === 0 ? draw(random, 300) : pick(random, numbers);
  const whole = BigInt.asUintN(64, BigInt(Number.isSafeInteger(value) ? value : 2 ** 62));
  if (bytes === 1) copy[at] = Number(whole & 255n);
  else if (bytes === 2) view.setUint16(at, Number(whole & 0xffffn), true);
  else if (bytes === 8) view.setBigUint64(at, whole, true);
  else if (draw(random, 2) === 0) view.setFloat32(at, pick(random, [value, Number.NaN, Number.POSITIVE_INFINITY]), true);
  else view.setUint32(at, Number(whole & 0xffff_ffffn), true);
  return copy;
}

/** Texts: pieces taken out, doubled, moved and put in; `words` are what the language is made of. */
export const mutateText =
  (words: readonly string[]): Mutator =>
  (content, random) => {
    const text = decoder.decode(content);
    const units = pick(random, [/(?<=\n)/, /(?<=[\s,:;()[\]{}|.="'%])|(?=[\s,:;()[\]{}|.="'%])/, /(?:)/u]);
    const parts = text.length < 200_000 ? text.split(units) : [text];
    const [at, from] = [draw(random, parts.length), draw(random, parts.length)];
    const count = 1 + draw(random, pick(random, [1, 3, 20]));
    switch (draw(random, 7)) {
      case 0:
        parts.splice(at, count);
        break;
      case 1:
        parts.splice(at, 0, ...parts.slice(from, from + count));
        break;
      case 2:
        [parts[at], parts[from]] = [parts[from], parts[at]];
        break;
      case 3:
        parts.splice(at, draw(random, 2), draw(random, 20) === 0 ? longText(random) : pick(random, texts));
        break;
      case 4:
        parts[at] = (parts[at] ?? '').replace(/\d+/, () => String(pick(random, numbers)));
        break;
      default:
        parts.splice(at, draw(random, 2), pick(random, words));
    }
    return encoder.encode(parts.join(''));
  };

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** JSON, also what is JSON no more. `words` are keys and values that mean something in the file. */
export const mutateJson =
  (words: readonly string[]): Mutator =>
  (content, random) => {
    if (draw(random, 12) === 0) return mutateText(words)(content, random);
    try {
      const changed = JSON.stringify(mutateValue(JSON.parse(decoder.decode(content)), words, random));
      return encoder.encode(changed ?? 'null');
    } catch {
      return mutateText(words)(content, random);
    }
  };

/** A value with one of its inner values changed. */
export function mutateValue(root: Json, words: readonly string[], random: Random): Json {
  const holder: { [key: string]: Json } = { root };
  let [parent, key]: [{ [key: string]: Json }, string] = [holder, 'root'];
  // Goes down by one random key a level: what lies high is met as often as what there is much of.
  for (let value = parent[key]; typeof value === 'object' && value !== null && draw(random, 5) > 0; value = parent[key]) {
    const keys = Object.keys(value);
    if (keys.length === 0) break;
    [parent, key] = [value as { [key: string]: Json }, pick(random, keys)];
  }
  const value = parent[key];
  switch (draw(random, 8)) {
    case 0:
      if (Array.isArray(parent)) parent.splice(Number(key), 1);
      else delete parent[key];
      break;
    case 1:
      if (Array.isArray(parent)) parent.splice(Number(key), 0, structuredClone(value));
      else parent[pick(random, words)] = structuredClone(value);
      break;
    case 2: {
      const others = Object.keys(parent);
      parent[key] = structuredClone(parent[pick(random, others)]);
      break;
    }
    case 3:
      parent[key] = draw(random, 2) === 0 ? [value] : { [pick(random, words)]: value };
      break;
    case 4:
      if (typeof value === 'object' && value !== null && !Array.isArray(value)) value[pick(random, words)] = anything(words, random);
      else parent[key] = anything(words, random);
      break;
    case 5:
      parent[key] = nearby(value, random) ?? anything(words, random);
      break;
    default:
      parent[key] = anything(words, random);
  }
  return holder.root ?? null;
}

/** A number or text that is nearly the same. */
function nearby(value: Json, random: Random): Json | undefined {
  if (typeof value === 'number') return pick(random, [value + 1, value - 1, -value, value * 2, value + 0.5, value * 1e6]);
  if (typeof value !== 'string') return undefined;
  const at = draw(random, value.length + 1);
  return value.slice(0, at) + pick(random, [...texts, '']) + value.slice(at + draw(random, 2));
}

function anything(words: readonly string[], random: Random): Json {
  const empty = [null, true, false, [], {}, [[]], [null], { a: {} }] as const;
  switch (draw(random, 7)) {
    case 0:
      return structuredClone(pick(random, empty)) as Json;
    case 1:
    case 2:
      return pick(random, numbers);
    case 3:
      return draw(random, 20) === 0 ? longText(random) : pick(random, texts);
    case 4:
      return Array.from({ length: draw(random, 4) }, () => pick(random, [...numbers, ...words]));
    default:
      return pick(random, words);
  }
}

type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };

/** Changes of a header after which it is still sound: other names, another type of the same size, another shape of as many elements. */
function soundHeader(header: { [key: string]: Entry }, random: Random): void {
  const name = pick(
    random,
    Object.keys(header).filter((key) => key !== '__metadata__'),
  );
  const entry = header[name];
  if (!entry?.shape) return;
  switch (draw(random, 4)) {
    case 0:
      delete header[name];
      header[pick(random, [`${name}.absmax`, name.replace(/\d+/, '1'), name.replace('_', '.'), pick(random, texts)])] = entry;
      break;
    case 1:
      entry.dtype = { BF16: 'F16', F16: 'BF16', F32: 'I32', U8: 'I8', I8: 'U8' }[entry.dtype] ?? entry.dtype;
      break;
    case 2:
      entry.shape = pick(random, [entry.shape.toReversed(), [entry.shape.reduce((a, b) => a * b, 1)], [1, ...entry.shape]]);
      break;
    default: {
      const other = pick(random, Object.keys(header));
      [header[name], header[other]] = [header[other], header[name]];
    }
  }
}

/** A safetensors file: the header as JSON, whose length stays true most times, its bytes, or those of the data. */
export const mutateSafetensors: Mutator = (content, random) => {
  const length = content.length < 8 ? 0n : new DataView(content.buffer, content.byteOffset).getBigUint64(0, true);
  if (draw(random, 8) === 0 || length === 0n || length > content.length - 8) return mutateBytes(content, random);
  const end = 8 + Number(length);
  if (draw(random, 6) === 0) return setNumber(content, end + draw(random, content.length - end), pick(random, [1, 2, 4]), random);
  const words = ['F32', 'BF16', 'F16', 'U8', 'I8', 'shape', 'dtype', 'data_offsets', '__metadata__', 'format'];
  let header = content.slice(8, end);
  try {
    const value = JSON.parse(decoder.decode(header));
    if (draw(random, 2) === 0) soundHeader(value, random);
    else throw new Error('not this time');
    header = encoder.encode(JSON.stringify(value));
  } catch {
    header = new Uint8Array(mutateJson(words)(header, random));
  }
  const result = new Uint8Array(8 + header.length + content.length - end);
  new DataView(result.buffer).setBigUint64(0, draw(random, 20) === 0 ? length : BigInt(header.length), true);
  result.set(header, 8);
  result.set(content.subarray(end), 8 + header.length);
  return result;
};
