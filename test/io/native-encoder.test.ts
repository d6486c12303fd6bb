import { describe, expect, test } from 'vitest';
import { encodeText } from '../../src/data/align.js';
import type { Span } from '../../src/data/chat-template.js';
import { Tokenizer } from '../../src/data/tokenizer.js';
import { openGguf } from '../../src/io/gguf-model.js';
import { openNativeEncoder } from '../../src/io/node/native-encoder.js';
import { localFiles } from '../../src/io/node.js';
import { ggufLayouts } from '../../src/models/families.js';
import { Random } from '../../src/util/philox.js';
import { golden, goldenTokenizer } from '../data/golden.js';

const awkward = [
  ['', ' ', '\n', '  before', 'after  ', 'x  y   z    ', '\n\n\n a\n \n', '\t\tif (x) {\r\n}\r\n'],
  ['a\u0301e\u0308 İstanbul', 'ﬁ ½ Ⅷ Ｆｕｌｌ', '\u00a0x\u200b\u2028y', 'straße ß ẞ', '\ufeffx', '\ufffd', '\u0000\u0001\u007f'],
  ['漢字かな交じり文', 'مرحبا بالعالم', 'नमस्ते', '🎉👩‍👩‍👧🏳️‍🌈', "don't I'll WE'RE", '1234567 3.14 1e-07', '!?'.repeat(50), 'a'.repeat(300)],
  ['<s></s><|im_end|>x<|im_start|>', '</s > <|im_end', '▁▁a ▁', '<0x41>'],
].flat();
const pieces = [
  'The answer',
  ' is',
  '  42',
  '\n\n',
  'größer',
  ' 漢字',
  '🎉',
  '\tx',
  '<|im_end|>',
  '</s>',
  '.',
  " L'été",
  'a',
  ' ',
  'e\u0301',
  'É',
];

async function tokenizerOf(kind: string): Promise<Tokenizer> {
  if (!kind.endsWith('.gguf')) return goldenTokenizer(kind);
  const file = await localFiles(new URL('../golden/gguf', import.meta.url).pathname).open(kind);
  const source = await openGguf(file!, ggufLayouts());
  await source.checkpoint.close();
  return new Tokenizer(source.tokenizer);
}

/** Where a span of content may begin or end: not inside a special token, nor between a letter and its accents. */
function edgesOf(text: string): number[] {
  const edges: number[] = [];
  for (const [piece] of text.matchAll(/<\|?\/?\w+\|?>|.\p{M}*/gsu)) edges.push((edges.at(-1) ?? 0) + piece.length);
  return [0, ...edges];
}

describe.each([...Object.keys(golden.special_tokens), 'byte-level.gguf', 'sentencepiece.gguf'])('%s', (kind) => {
  test('the Rust tokenizer gives the ids of the other one, and finds the same tokens for parts of a text', async () => {
    const tokenizer = await tokenizerOf(kind);
    const encode = (await openNativeEncoder(tokenizer))!;
    const random = new Random(3, 0);
    const among = <T>(items: readonly T[]) => items[Math.floor(random.next() * items.length)];
    const texts = [...awkward, ...golden.encodings.map(({ text }) => text), ...golden.cases.map(({ text }) => text)];
    for (let i = 0; i < 100; i++) texts.push(Array.from({ length: 8 }, () => among(pieces)).join(''));
    const encodings = await encode(texts);
    for (const [i, text] of texts.entries()) {
      const expected = encodeText(tokenizer, text);
      expect(encodings[i].ids, JSON.stringify(text)).toEqual(expected.ids);
      const edges = edgesOf(text);
      for (let round = 0; round < 4; round++) {
        const [a, b, c, d] = Array.from({ length: 4 }, () => among(edges)).sort((x, y) => x - y);
        const spans: Span[] = [
          [a, b],
          [c, d],
        ];
        expect(encodings[i].ranges(spans), JSON.stringify([text, spans])).toEqual(expected.ranges(spans));
      }
    }
  });
});

test('the library does not cut, pad or merge at random, and vocabularies without bytes are not left to it', async () => {
  const { tokenizerJson, tokenizerConfig } = goldenTokenizer('byte-level').files;
  const model = tokenizerJson.model as { vocab: Record<string, number> };
  const changed = (change: object, options: object = {}) =>
    new Tokenizer({ tokenizerJson: { ...tokenizerJson, ...options, model: { ...model, ...change } }, tokenizerConfig });

  const truncation = { max_length: 2, stride: 0, strategy: 'LongestFirst', direction: 'Right' };
  const padding = { strategy: { Fixed: 99 }, direction: 'Right', pad_to_multiple_of: null, pad_id: 0, pad_type_id: 0, pad_token: 'x' };
  const whole = (await openNativeEncoder(changed({ dropout: 0.9 }, { truncation, padding })))!;
  const text = 'The answer is forty-two, and the question is not known.';
  expect((await whole([text]))[0].ids).toEqual(goldenTokenizer('byte-level').encode(text));

  // This one takes the space out of the places of " is", so that a span that ends with the space would not hold it.
  const trimming = { post_processor: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true } };
  const [encoding] = await (await openNativeEncoder(changed({}, trimming)))!(['answer is']);
  const spans: Span[] = [[0, 'answer '.length]];
  expect(encoding.ranges(spans)).toEqual(encodeText(goldenTokenizer('byte-level'), 'answer is').ranges(spans));

  expect(await openNativeEncoder(changed({ unk_token: 'a' }))).toBeUndefined();
  const words = { type: 'WordLevel', vocab: { a: 0, b: 1 }, unk_token: 'a' };
  expect(await openNativeEncoder(new Tokenizer({ tokenizerJson: { model: words } }))).toBeUndefined();
});
