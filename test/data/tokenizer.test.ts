import { describe, expect, test } from 'vitest';
import { Tokenizer } from '../../src/data/tokenizer.js';
import { golden, goldenTokenizer } from './golden.js';

const kinds = Object.keys(golden.special_tokens);

describe.each(kinds)('%s tokenizer', (kind) => {
  const tokenizer = goldenTokenizer(kind);
  const encodings = golden.encodings.filter((entry) => entry.tokenizer === kind);

  test.each(encodings)('$text', ({ text, ids, special, decoded, skipped }) => {
    expect(tokenizer.encode(text)).toEqual(ids);
    expect(tokenizer.encode(text, { addSpecialTokens: true })).toEqual(special);
    expect([...tokenizer.prefixIds, ...ids, ...tokenizer.suffixIds]).toEqual(special);
    expect(tokenizer.decode(ids)).toBe(decoded);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(skipped);
  });

  test.each(encodings)('streamed: $text', ({ ids, decoded, skipped }) => {
    for (const [skipSpecialTokens, whole] of [
      [false, decoded],
      [true, skipped],
    ] as const) {
      const decoder = tokenizer.createDecoder({ skipSpecialTokens });
      const parts = ids.map((id) => decoder.push(id));
      for (const part of parts) expect(part).not.toContain('\ufffd');
      expect(parts.join('') + decoder.end()).toBe(whole);
    }
  });
});

test('ids that only the model’s embedding has, which is padded, are no text; others that are no token’s are refused', () => {
  const { files, vocabSize } = goldenTokenizer('byte-level');
  const padded = new Tokenizer(files, { embeddingRows: vocabSize + 6 });
  const ids = padded.encode('größer');
  expect(padded.decode([vocabSize + 5, ...ids.slice(0, 2), vocabSize, ...ids.slice(2)])).toBe('größer');
  expect(padded.decode([vocabSize])).toBe('');
  const decoder = padded.createDecoder();
  expect([...ids.slice(0, 2), vocabSize + 1, ...ids.slice(2)].map((id) => decoder.push(id)).join('') + decoder.end()).toBe('größer');
  for (const id of [vocabSize + 6, -1, 1.5]) expect(() => padded.decode([id])).toThrow(`token id ${id} is not in the vocabulary`);
});
