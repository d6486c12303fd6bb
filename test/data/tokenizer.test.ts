import { describe, expect, test } from 'vitest';
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
