import { draw, type Mutator, mutateBytes, pick, setNumber } from './mutate.js';

/** Where the parts of a GGUF file's header lie: numbers, texts, and whole entries. Offset and length each. */
interface Places {
  numbers: [number, number][];
  texts: [number, number][];
  pairs: [number, number][];
  tensors: [number, number][];
}

const sizes = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

/** Walks a header as far as it makes sense. */
function placesOf(content: Uint8Array): Places {
  const places: Places = { numbers: [], texts: [], pairs: [], tensors: [] };
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  let at = 0;
  const number = (bytes: number): number => {
    const value = bytes === 8 ? Number(view.getBigUint64(at, true)) : bytes === 4 ? view.getUint32(at, true) : 0;
    places.numbers.push([at, bytes]);
    at += bytes;
    return value;
  };
  const text = () => {
    const length = number(8);
    places.texts.push([at, length]);
    at += length;
  };
  const value = (type: number, sampled: boolean): void => {
    if (!(at < content.length && type < sizes.length)) throw new RangeError('beyond the end');
    if (type === 8) {
      if (sampled) text();
      else at += 8 + Number(view.getBigUint64(at, true));
    } else if (type === 9) {
      const [inner, length] = [number(4), number(8)];
      for (let i = 0; i < length; i++) value(inner, i % 64 === 0);
    } else if (sampled) number(sizes[type]);
    else at += sizes[type];
  };
  try {
    number(4);
    number(4);
    const [tensors, pairs] = [number(8), number(8)];
    for (let i = 0; i < pairs; i++) {
      const start = at;
      text();
      value(number(4), true);
      places.pairs.push([start, at - start]);
    }
    for (let i = 0; i < tensors; i++) {
      const start = at;
      text();
      const dimensions = number(4);
      for (let d = 0; d < dimensions; d++) number(8);
      number(4);
      number(8);
      places.tensors.push([start, at - start]);
    }
  } catch {
    // What was found before the header stopped making sense can be changed all the same.
  }
  return places;
}

/** A GGUF file: one of its numbers or texts, an entry less or twice, or its bytes. Counts follow most times. */
export const mutateGguf: Mutator = (content, random) => {
  const { numbers, texts, pairs, tensors } = placesOf(content);
  const choice = draw(random, 10);
  if (choice < 4 && numbers.length > 0) {
    const [at, bytes] = pick(random, draw(random, 2) === 0 ? numbers.slice(-60) : numbers);
    return setNumber(content, at, bytes, random);
  }
  if (choice < 6 && texts.length > 0) {
    const copy = content.slice();
    const [at, length] = pick(random, texts);
    const [from, many] = pick(random, texts);
    if (draw(random, 2) === 0) copy.set(content.slice(from, from + Math.min(length, many)), at);
    else if (length > 0) copy[at + draw(random, length)] = draw(random, 128);
    return copy;
  }
  const [entries, countAt] = draw(random, 2) === 0 ? [pairs, 16] : [tensors, 8];
  if (choice < 9 && entries.length > 0) {
    const [at, length] = pick(random, entries);
    const twice = draw(random, 2) === 0;
    const rest = content.slice(twice ? at : at + length);
    const result = new Uint8Array(content.length + (twice ? length : -length));
    result.set(content.subarray(0, at + (twice ? length : 0)));
    result.set(rest, result.length - rest.length);
    // The data stay aligned by chance alone; most such files are refused for that.
    if (draw(random, 8) > 0) new DataView(result.buffer).setBigUint64(countAt, BigInt(entries.length + (twice ? 1 : -1)), true);
    return result;
  }
  return mutateBytes(content, random);
};
