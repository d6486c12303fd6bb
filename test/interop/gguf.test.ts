import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Tokenizer } from '../../src/data/tokenizer.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { openModel } from '../../src/runs/node.js';
import { askPeers, json, peersFolder, realModel, temporaryFolder } from './peers.js';

const code = readFileSync(new URL('../../src/io/gguf-tokenizer.ts', import.meta.url), 'utf8');
const texts = [
  '',
  ' ',
  '   ',
  '\n',
  '\r\n\r\n',
  '\t\tx',
  'a',
  'Hello, world!',
  ' leading and trailing ',
  'two  spaces   three    four',
  'end of line  \n  next',
  '\u00a0no-break\u2003em space\u200bzero width',
  "it's we'll I'd you've they're I'm",
  "IT'S WE'LL I'D",
  'don’t “quote” — dash…',
  '0',
  '7 8 9',
  '1234567890',
  '3.14159 -1e-10 0x1F',
  'v2.0.1-rc3',
  '12:30, 2024-02-29',
  'a1b22c333',
  '١٢٣ ४५६ ⅷ ½ ²',
  'x   42',
  'line\n\n  7. item\n    8. item',
  'https://example.org/a?b=c&d=%20#e',
  'user@example.org',
  'snake_case camelCase PascalCase kebab-case SCREAMING_CASE',
  'def f(x):\n    return x ** 2  # square\n',
  'for (let i = 0; i < n; i++) {\n\tsum += a[i];\n}',
  '{"key": [1, 2.5, null, true], "nested": {"a": "b\\n"}}',
  '<div class="x">&amp;</div>',
  '$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$',
  'ÄÖÜäöüß éèê ñ ç å ø',
  'e\u0301 combining \u0308',
  'ﬁ ligature ǅ ℌ',
  'Привет, мир',
  'Γειά σου Κόσμε',
  'שלום עולם',
  'مرحبا بالعالم',
  'नमस्ते दुनिया',
  '你好，世界。',
  'こんにちは世界',
  '안녕하세요 세계',
  'สวัสดีชาวโลก',
  '😀😃👍🏽👨‍👩‍👧‍👦🇩🇪',
  'emoji😀in😀words',
  '\u{1d54f}\u{10348}',
  '\u0000\u0001\u007f\u0080',
  '\ufeffmark',
  '\ufffd',
  '<|im_start|>user\nHi<|im_end|>\n',
  '<|im_start|><|im_end|><|endoftext|>',
  ' <|im_end|> ',
  'x<|im_start|>y',
  '<|im_star|> <|im_end',
  '<|IM_START|>',
  '<repo_name>a/b<file_sep>c',
  '!@#$%^&*()_+-=[]{}|;\':",./<>?`~',
  'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
  '----------------====================',
  'supercalifragilisticexpialidocious antidisestablishmentarianism',
  code,
];

/**
 * SmolLM2's own tokenizer.json takes every digit as a piece of its own, spaces before it apart; transformers' reading of a GGUF file knows
 * only GPT-2's pieces. Asked piece by piece it gives what the original does.
 */
const pieces = texts.map((text) => text.split(/(\p{N})/u).filter((piece) => piece !== ''));

let source: ModelSource;
let tokenizer: Tokenizer;
let theirs: { ids: number[][]; eos: number; bos: number };
const folder = temporaryFolder();
beforeAll(async () => {
  source = await openModel(join(peersFolder, realModel));
  tokenizer = new Tokenizer(source.tokenizer);
  const out = join(folder.path, 'ids.json');
  await askPeers(folder.path, [{ do: 'tokenize', folder: peersFolder, file: realModel, texts: pieces.flat().concat(texts), out }]);
  theirs = json(out);
});
afterAll(async () => {
  await source.checkpoint.close();
  folder.remove();
});

test('token ids of the tokenizer inside a GGUF file equal those of transformers', () => {
  const ids = theirs.ids.values();
  const expected = pieces.map((parts) => parts.flatMap(() => ids.next().value!));
  expect(texts.map((text) => tokenizer.encode(text))).toEqual(expected);
  const whole = [...ids];
  const differing = texts.filter((_, i) => JSON.stringify(whole[i]) !== JSON.stringify(expected[i]));
  // Only digits after several spaces, and those beyond ASCII, tell the two apart.
  expect(differing.filter((text) => !/\s\s\p{N}|[^\P{N}0-9]/u.test(text))).toEqual([]);
});

test('decoding gives back the text', () => {
  for (const text of texts) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
});

test('special tokens and the chat template are those of the model', () => {
  expect(tokenizer.eosTokenId).toBe(theirs.eos);
  expect(tokenizer.bosTokenId).toBe(theirs.bos);
  expect(tokenizer.specialTokens.eos_token).toBe('<|im_end|>');
  expect(tokenizer.prefixIds).toEqual([]);
  expect(tokenizer.chatTemplate).toContain("'<|im_start|>' + message['role']");
  expect(source.config).toMatchObject({
    eos_token_id: 2,
    bos_token_id: 1,
    tie_word_embeddings: true,
    rms_norm_eps: 1e-5,
    vocab_size: 49152,
  });
});
