import { LowrankError } from '../util/errors.js';

/**
 * The text of a file that comes in pieces of bytes, block by block; a block may end anywhere but within a character. A byte order mark
 * stays. Throws a LowrankError that names the line where the bytes are not UTF-8.
 */
export async function* utf8Blocks(pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, name: string): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const decode = (bytes: Uint8Array) => {
    try {
      return decoder.decode(bytes);
    } catch {
      throw new LowrankError('the text is not UTF-8', {
        place: `${name}:${lines + firstWrongLine(bytes, decoder)}`,
        mend: 'convert the file to UTF-8',
      });
    }
  };
  let lines = 1;
  let rest: Uint8Array = new Uint8Array(0);
  for await (const piece of pieces) {
    const bytes = rest.length === 0 ? piece : joined(rest, piece);
    // Up to the last byte that is a character by itself, so that none is cut.
    let end = bytes.length;
    while (end > 0 && bytes[end - 1] >= 0x80) end--;
    rest = bytes.slice(end);
    if (end === 0) continue;
    const whole = bytes.subarray(0, end);
    yield decode(whole);
    lines += countLines(whole);
  }
  if (rest.length > 0) yield decode(rest);
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

function countLines(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) count++;
  return count;
}

/** The first line, from 0, that is not UTF-8. */
function firstWrongLine(bytes: Uint8Array, decoder: TextDecoder): number {
  let start = 0;
  for (let line = 0; ; line++) {
    const found = bytes.indexOf(10, start);
    try {
      decoder.decode(bytes.subarray(start, found < 0 ? undefined : found));
    } catch {
      return line;
    }
    if (found < 0) return line;
    start = found + 1;
  }
}
