import { expect, test } from 'vitest';
import { parseJson, parseJsonObject } from '../../src/util/json.js';

const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);

test('nesting is bounded at 100 levels', () => {
  expect(JSON.stringify(parseJson(nested(100), 'x.json'))).toBe(nested(100));
  expect(() => parseJson(nested(101), 'x.json')).toThrow(/^x\.json:1:101: nested deeper than 100 levels/);
  const objects = `${'{"a":'.repeat(1000)}1${'}'.repeat(1000)}`;
  expect(() => parseJson(`\n${objects}`, 'x.json')).toThrow(/^x\.json:2:501: nested deeper/);
  // A million levels would exhaust JSON.parse's stack.
  expect(() => parseJson('['.repeat(1_000_000), 'x.json')).toThrow(/nested deeper/);
});

test('brackets beside each other and inside strings are no nesting', () => {
  expect(parseJson(`[${'[],'.repeat(500)}{}]`, 'x.json')).toHaveLength(501);
  const text = '['.repeat(500);
  expect(parseJson(JSON.stringify({ [text]: text, quoted: `\\"${text}` }), 'x.json')).toEqual({ [text]: text, quoted: `\\"${text}` });
});

test('the key __proto__ is refused at every level', () => {
  expect(() => parseJson('{"__proto__": {"polluted": true}}', 'x.json')).toThrow(/^x\.json: the key "__proto__" is not allowed/);
  expect(() => parseJson('[{"a": {"__proto__": 1}}]', 'x.json')).toThrow(/__proto__/);
  expect(() => parseJson('{"\\u005f_proto__": 1}', 'x.json')).toThrow(/__proto__/);
  expect(parseJson('{"constructor": 1, "proto": "__proto__"}', 'x.json')).toEqual({ constructor: 1, proto: '__proto__' });
});

test.each([
  ['{"a": 1\n "b": 2}', '2:2', '"\\"" where "," or "}"'],
  ['{\n  "a": 1,\n  b: 2}', '3:3', '"b" where a key in double quotes'],
  ['{b: 2}', '1:2', '"b" where a key in double quotes or "}"'],
  ['{"a" 1}', '1:6', '"1" where ":"'],
  ['{"a": }', '1:7', '"}" where a value'],
  ['{"a": [1, {"b": tru}]}', '1:17', '"t" where a value'],
  ['[1, 2', '1:6', 'the end of the text where "," or "]"'],
  ['[1, ]', '1:5', '"]" where a value'],
  ['[1, 2]]', '1:7', '"]" where the end of the text'],
  ['"a\nb"', '1:3', '"\\n" where the rest of a string'],
  ['["a\\x"]', '1:4', '"\\\\" where the rest of a string'],
  ['', '1:1', 'the end of the text where a value'],
  ['[01]', '1:3', '"1" where "," or "]"'],
  ['[😀]', '1:2', '"😀" where a value or "]"'],
])('an error in %j is placed at %s', (text, place, message) => {
  expect(() => parseJson(text, 'x.json')).toThrow(`x.json:${place}: not valid JSON: ${message}`);
});

test('a byte order mark is no part of the text', () => {
  expect(parseJson('\ufeff{"a": 1}', 'x.json')).toEqual({ a: 1 });
});

test('a whole file must be an object where one is asked for', () => {
  expect(parseJsonObject('{"a": [1]}', 'x.json')).toEqual({ a: [1] });
  for (const text of ['[]', 'null', '"{}"', '3'])
    expect(() => parseJsonObject(text, 'x.json')).toThrow(/^x\.json: not a JSON object.*right file/s);
});
