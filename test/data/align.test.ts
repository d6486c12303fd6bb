import { expect, test } from 'vitest';
import { tokenRanges } from '../../src/data/align.js';
import type { Span } from '../../src/data/chat-template.js';
import { Random } from '../../src/util/philox.js';
import { goldenTokenizer } from './golden.js';

const pieces = ['The answer', ' is', '  42', '\n\n', 'größer', ' 漢字', '🎉', '\tx', '<|im_end|>', '</s>', '.', " L'été", 'a'];

/** Where each token begins and ends in the text's UTF-8, by adding up lengths: possible where no normalizer changes the length. */
function offsets(kind: string, ids: readonly number[], tokenizer: ReturnType<typeof goldenTokenizer>): Span[] {
  // This kind puts a space before the text and after each special token.
  let end = 0;
  let fresh = kind === 'llama2';
  return ids.map((id) => {
    const start = end;
    end += tokenizer.byteLength(id) - (fresh && !tokenizer.isSpecial(id) ? 1 : 0);
    fresh = kind === 'llama2' && tokenizer.isSpecial(id);
    return [start, end];
  });
}

test.each(['byte-level', 'byte-level-bos', 'llama2', 'gemma'])('%s: ranges are those that the lengths of all tokens give', (kind) => {
  const tokenizer = goldenTokenizer(kind);
  const random = new Random(3, 0);
  const bytes = (text: string) => new TextEncoder().encode(text).length;
  for (let round = 0; round < 200; round++) {
    const parts = Array.from({ length: 8 }, () => pieces[Math.floor(random.next() * pieces.length)]);
    const text = parts.join('');
    const ids = tokenizer.encode(text);
    const tokens = offsets(kind, ids, tokenizer);
    expect(tokens.at(-1)![1]).toBe(bytes(text));
    // Any character's edge, but none inside a special token.
    const edges = parts.flatMap((part, i) => {
      const before = parts.slice(0, i).join('').length;
      return (part.startsWith('<') ? [part] : [...part]).map((_, k, units) => before + units.slice(0, k).join('').length);
    });
    const [a, b, c, d] = Array.from({ length: 4 }, () => edges[Math.floor(random.next() * edges.length)]).sort((x, y) => x - y);
    const spans: Span[] = [
      [a, b],
      [c, d],
    ];
    const expected = spans.map(([start, end]) => {
      const [from, to] = [bytes(text.slice(0, start)), bytes(text.slice(0, end))];
      return [tokens.filter((token) => token[0] < from && token[1] <= from).length, tokens.filter((token) => token[0] < to).length];
    });
    expect(tokenRanges(tokenizer, ids, text, spans), JSON.stringify([text, spans])).toEqual(expected);
  }
});
