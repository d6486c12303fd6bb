import { expect, test } from 'vitest';
import { parseRow, RowFile, rowTexts } from '../../src/data/rows.js';

const bytes = (text: string) => new TextEncoder().encode(text);

/** A file that comes in pieces of `size` bytes. */
function* pieces(content: Uint8Array, size: number): Generator<Uint8Array> {
  for (let at = 0; at < content.length; at += size) yield content.subarray(at, at + size);
}

async function read(content: string | Uint8Array, name: string, size = 1 << 20): Promise<unknown[]> {
  const rows: unknown[] = [];
  for await (const row of rowTexts(pieces(typeof content === 'string' ? bytes(content) : content, size), name)) {
    const { value, place } = parseRow(row, name);
    rows.push([place, value]);
  }
  return rows;
}

const lines = '\ufeff{"a": "größer 🎉"}\r\n\n  {"b": [1, {"c": "]}\\""}]}\n\ufeff{"漢": "\\\\"}';
const array = '\ufeff \n[ {"a": "größer 🎉"},\n\n{"b": [1,\n {"c": "]},\\""}]}\n,{"漢": "\\\\"}\n]\n ';

test.each([1, 2, 3, 7, 64])('a file in pieces of %i bytes has the rows of the whole, each with its line', async (size) => {
  const values = [{ a: 'größer 🎉' }, { b: [1, { c: ']}"' }] }, { 漢: '\\' }];
  expect(await read(lines, 'd.jsonl', size)).toEqual([1, 3, 4].map((line, i) => [`d.jsonl:${line}`, values[i]]));
  expect(await read(lines, 'd.json', size)).toEqual([1, 3, 4].map((line, i) => [`d.json:${line}`, values[i]]));
  expect(await read(array, 'd.json', size)).toEqual(
    [2, 4, 6].map((line, i) => [`d.json:${line}`, i === 1 ? { b: [1, { c: ']},"' }] } : values[i]]),
  );
});

test.each<[string, string, RegExp]>([
  ['an element that is no object', '[{"a": 1},\n 5, {}]', /^d\.json:2: the row is not an object/],
  ['a broken element', '[{"a": 1},\n{"a": [1}, {}]', /^d\.json:2:9: not valid JSON: "}" where/],
  ['a word', '[{}, abc"]"]', /^d\.json:1:6: not valid JSON: "a" where a value was expected/],
  ['no comma', '[{"a": 1}\n {"a": 2}]', /^d\.json:2:2: not valid JSON: "{" where "," or "]" was expected/],
  ['a comma too many', '[{"a": 1},\n]', /^d\.json:2:1: not valid JSON: "]" where a value was expected/],
  ['a comma first', '[,{"a": 1}]', /^d\.json:1:2: not valid JSON: "," where a value or "]" was expected/],
  ['no end', '[{"a": 1}\n', /^d\.json:2:1: not valid JSON: the end of the text where "," or "]" was expected/],
  ['an element that does not end', '[{"a": 1},\n{"a": "x]\n', /^d\.json:2:10: not valid JSON/],
  ['text behind the end', '[{}]\n🎉', /^d\.json:2:1: not valid JSON: "🎉" where the end of the text was expected/],
  ['an object', '{\n"rows": []}', /^d\.json:1:1: the top level is an object\n {2}expected: an array of objects/],
  ['a value that is no JSON', '{\n"rows": [}', /^d\.json:2:10: not valid JSON/],
])('%s in an array is named with line and column, in whatever pieces it comes', async (_, text, message) => {
  for (const size of [1, 5, 1000]) await expect(read(text, 'd.json', size)).rejects.toThrow(message);
});

test('bytes that are not UTF-8 are named with their line', async () => {
  const broken = Uint8Array.from([...bytes('{"a": "é"}\n\n{"a": "'), 0xe9, ...bytes('t"}\n{}')]);
  for (const size of [1, 4, 1000])
    await expect(read(broken, 'd.jsonl', size)).rejects.toThrow(/^d\.jsonl:3: the text is not UTF-8\n {2}to mend/);
  await expect(read(Uint8Array.from([...bytes('{"a": 1}\n'), 0xe2, 0x82]), 'd.jsonl')).rejects.toThrow(
    /^d\.jsonl:2: the text is not UTF-8/,
  );
});

test('rows come while the file is read, and the file is read anew each time', async () => {
  for (const [name, start, between] of [
    ['d.jsonl', '', '\n'],
    ['d.json', '[', ','],
  ]) {
    let given = 0;
    const file = new RowFile(name, 1e12, async function* () {
      yield bytes(start);
      for (;;) yield bytes(`{"n": ${given++}}${between}`);
    });
    for (const first of [0, 3]) {
      given = first;
      const seen: unknown[] = [];
      for await (const { value } of file) if (seen.push(value.n) === 3) break;
      expect(seen).toEqual([first, first + 1, first + 2]);
      expect(given).toBeLessThan(first + 6);
    }
  }
});
