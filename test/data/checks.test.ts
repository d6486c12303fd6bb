import { describe, expect, test } from 'vitest';
import { ChatTemplate } from '../../src/data/chat-template.js';
import { type PrepareOptions, prepareExamples } from '../../src/data/prepare.js';
import { Tokenizer } from '../../src/data/tokenizer.js';
import { dataWarnings } from '../../src/data/warnings.js';
import type { JsonObject } from '../../src/util/json.js';
import { chatml, chatmlTemplate, goldenTokenizer } from './golden.js';

const templateOf = (source: string) => new ChatTemplate(source, { specialTokens: chatml.specialTokens });
const prepare = (rows: JsonObject[], template = chatmlTemplate, options: Partial<PrepareOptions> = {}) =>
  prepareExamples(
    rows.map((value, i) => ({ value, place: `d.jsonl:${i + 1}` })),
    chatml,
    template,
    { sequence_len: 512, name: 'd.jsonl', ...options },
  );
/** What a run says of the rows. */
async function said(rows: JsonObject[], template?: ChatTemplate): Promise<string[]> {
  return dataWarnings((await prepare(rows, template)).statistics, 'd.jsonl', 512);
}

const chat = (more: JsonObject = {}, row: JsonObject = {}): JsonObject => ({
  messages: [
    { role: 'user', content: 'What is it?' },
    { role: 'assistant', content: 'It is a lamp.', ...more },
  ],
  ...row,
});

describe('content that does not reach the training', () => {
  test('nothing is said of rows that are trained as they stand', async () => {
    expect(await said([chat(), chat({}, { id: null, tags: [] }), { instruction: 'a', input: '', output: 'b' }].slice(0, 2))).toEqual([]);
  });

  test('columns, once each with their number, the first row and an example', async () => {
    const rows = [chat(), chat({}, { topic: 'light', id: 7 }), chat({}, { topic: 'shade' })];
    expect(await said(rows)).toEqual([
      'of d.jsonl nothing reads the columns "topic" (2 rows, such as d.jsonl:2: "light"), "id" (1 row, such as d.jsonl:2: 7)',
    ]);
    expect(await said([{ prompt: 'a', completion: 'b', system: 'c' }])).toEqual([
      'of d.jsonl nothing reads the column "system" (1 row, such as d.jsonl:1: "c")',
    ]);
  });

  test('keys of messages that the template does not read, however short or unlike a text', async () => {
    expect(await said([chat({ reasoning_content: 'hm' }), chat(), chat({ reasoning_content: 'The user wants to know.' })])).toEqual([
      'the chat template does not read "reasoning_content" of assistant messages: 2 messages of d.jsonl, such ' +
        'as d.jsonl:1: message 2: "hm"',
    ]);
    expect(await said([chat(), chat({ weight: 0 })])).toEqual([
      'the chat template does not read "weight" of assistant messages: 1 message of d.jsonl, such as d.jsonl:2: message 2: 0' +
        '; if it says what is trained, write message_field_training: weight',
    ]);
  });

  test('two thoughts of one message that differ: a template gets one', async () => {
    const template = templateOf(
      chatmlTemplate.portable().source.replace("message['content']", "(message['thinking'] or '') + message['content']"),
    );
    expect(await said([chat({ thinking: 'The first.', reasoning: 'The first.' })], template)).toEqual([]);
    expect(await said([chat({ thinking: 'The first.', reasoning: 'The second.' })], template)).toEqual([
      'the chat template leaves out text of "reasoning" of assistant messages: 1 message of d.jsonl, such as d.jsonl:1: message 2: ' +
        '"The second"',
    ]);
  });

  test('a role whose content a template leaves out', async () => {
    const template = templateOf(
      "{% for m in messages %}{% if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\\n' + m.content + " +
        "'<|im_end|>\\n' }}{% endif %}{% endfor %}" +
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    );
    expect(await said([chat({}, { system: 'Speak like a pirate.' })], template)).toEqual([
      'the chat template does not read "content" of system messages: 1 message of d.jsonl, such as d.jsonl:1: ' +
        'message 1: "Speak like a pirate."',
    ]);
  });

  test('a template without a generation prompt, where what begins an answer is not learnt', async () => {
    const open = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}";
    expect(await said([chat(), chat()], templateOf(open))).toEqual([
      'the chat template has no generation prompt: answers begin with "<|im_start|>assistant\\n" in the training, which is not learnt, ' +
        'and are asked for without it: 2 rows looked at of d.jsonl, such as d.jsonl:1: message 2; give the template a part ' +
        '{% if add_generation_prompt %} that prints it',
    ]);
    // Where nothing but the answer follows the question there is nothing that a prompt could begin.
    const mistral =
      "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + '<|im_end|>' }}{% endfor %}";
    expect(await said([chat()], templateOf(mistral))).toEqual([]);
  });

  test('a part of an answer, and a generation prompt that is not how the training begins answers', async () => {
    const template = templateOf(
      "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}{% set c = " +
        "m.content %}{% if '</think>' in c %}" +
        "{% set c = c.split('</think>')[-1] %}{% endif %}<|endoftext|>{{ c }}<|im_end|>{% endif %}{% endfor %}" +
        '{% if add_generation_prompt %}<|endoftext|><think>\n{% endif %}',
    );
    const rows = [chat({ content: '<think>\nhm\n</think>\n\nIt is a lamp.' })];
    const other = chat({ content: '<think>\nhm\n</think>\n\nIt is a chair.' });
    expect(await said([...rows, other], template)).toEqual([
      expect.stringMatching(
        /^the chat template leaves out text of "content" of assistant messages: 2 messages of d.jsonl, such as .*: "<think>\\nhm/,
      ),
      expect.stringMatching(
        /^the generation prompt is not how .*: 2 rows .*asked for with ".*<think>\\n", and the training has ".*\\n\\nIt is a lamp/,
      ),
    ]);
  });

  test('tools', async () => {
    const tools = [{ type: 'function', function: { name: 'weather' } }];
    expect(await said([chat({}, { tools })])).toEqual([
      'the chat template does not show the tools of 1 row of d.jsonl, such as d.jsonl:1: ["weather"]',
    ]);
  });

  test('halves of characters, in conversations and in texts', async () => {
    const half = 'a \ud83c lamp';
    for (const row of [chat({ content: half }), { text: half }, { instruction: 'a', output: half }])
      expect(await said([row])).toEqual([
        expect.stringMatching(/^1 row holds half of a character .* U\+FFFD: of d\.jsonl, such as d\.jsonl:1/),
      ]);
    expect(await said([chat({ content: 'a 🎉 lamp' })])).toEqual([]);
  });

  test('empty answers', async () => {
    expect(await said([chat(), chat({ content: ' \n' })])).toEqual([
      '1 trained turn is empty, and only an end is learnt there: of d.jsonl, such as d.jsonl:2: message 2',
    ]);
    expect(await said([{ instruction: 'a', output: '' }])).toEqual([
      '1 trained completion is empty, and only an end is learnt there: of d.jsonl, such as d.jsonl:1',
    ]);
  });

  test('text that a template only trims, spaces otherwise or writes as JSON is not missing', async () => {
    const trimming = templateOf(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content | trim | replace('a', ' a')) + " +
        "'<|im_end|>\\n' }}{% endfor %}" +
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    );
    expect(await said([chat({ content: '\n It is a lamp. \n' })], trimming)).toEqual([]);
    const writing = templateOf(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{{ m.content | tojson }}{{ '<|im_end|>\\n' }}{% endfor %}" +
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    );
    expect(await said([chat({ content: 'A "lamp"\nof light' })], writing)).toEqual([]);
  });

  test('a row of which nothing that is trained appears is refused', async () => {
    const template = templateOf(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.text or 'nothing at all') + '<|im_end|>\\n' }}{% endfor %}" +
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    );
    const rows = [chat({ text: 'It is a lamp.' }), chat()];
    await expect(prepare(rows, template, { dataset: { train_on_inputs: true } })).rejects.toThrow(
      /^d\.jsonl:2: the chat template leaves out all that this row trains\n {2}expected: the text "It is a lamp\."/,
    );
  });
});

describe('rows that cannot be trained', () => {
  const template = templateOf(
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}" +
      "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{% if " +
      "add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
  );
  const twice = { messages: [{ role: 'user', content: 'a' }, ...(chat().messages as JsonObject[])] };

  test('are all named at once', async () => {
    const rows = [chat(), twice, { messages: [{ role: 7 }] }, chat(), twice];
    await expect(prepare(rows, template)).rejects.toThrow(
      /^d\.jsonl:2: .*alternate; 3 rows of d\.jsonl cannot be trained, also d\.jsonl:3, d\.jsonl:5\n[\s\S]*invalid_rows_strategy: drop/,
    );
  });

  test('or left out and counted', async () => {
    const { examples, statistics } = await prepare([chat(), twice, chat(), twice], template, { invalid_rows_strategy: 'drop' });
    expect(examples.map(({ row }) => row)).toEqual(['d.jsonl:1', 'd.jsonl:3']);
    expect(statistics).toMatchObject({ rows: 2, invalid: 2, invalid_example: expect.stringMatching(/^d\.jsonl:2: .*must alternate/) });
    const nothing = { messages: [{ role: 'user', content: 'a' }] };
    const { statistics: others } = await prepare([chat(), nothing], template, { invalid_rows_strategy: 'drop' });
    expect(dataWarnings(others, 'd.jsonl', 512)).toEqual([
      '1 row of d.jsonl cannot be trained and was left out, such as d.jsonl:2: the row has no supervised token',
    ]);
    await expect(prepare([twice, twice], template, { invalid_rows_strategy: 'drop' })).rejects.toThrow(
      /2 rows of d\.jsonl cannot be trained/,
    );
  });

  test('after a hundred no more are read', async () => {
    await expect(prepare(Array(300).fill(twice), template)).rejects.toThrow(/at least 256 rows of d\.jsonl cannot be trained/);
  });
});

test('rows that truncate cuts are told apart', async () => {
  const long = (user: number, answer: number) => ({
    messages: [
      { role: 'user', content: 'a '.repeat(user) },
      { role: 'assistant', content: 'b '.repeat(answer) },
    ],
  });
  const { statistics } = await prepare([long(1, 1), long(1, 90), long(90, 1)], chatmlTemplate, {
    sequence_len: 64,
    excess_length_strategy: 'truncate',
  });
  expect(statistics).toMatchObject({ examples: 2, truncated: 1, unended: 1, dropped: 1, emptied: 1 });
  expect(dataWarnings(statistics, 'd.jsonl', 64)).toEqual([
    '1 row of d.jsonl was cut to sequence_len 64, 1 of them within a trained text, whose end is not learnt',
    '1 row of d.jsonl, cut to sequence_len 64, held nothing supervised and was left out',
  ]);
});

describe('characters that the vocabulary cannot write', () => {
  /** The byte-level tokenizer without the first byte of four-byte characters and without the tab. */
  function lacking(more: JsonObject = {}): Tokenizer {
    const { tokenizerJson, tokenizerConfig } = chatml.files;
    const model = tokenizerJson.model as JsonObject & { vocab: Record<string, number>; merges: (string | string[])[] };
    const gone = ['ð', 'ĉ'];
    const kept = <T extends string | string[]>(token: T) => !gone.some((character) => token.includes(character));
    const vocab = Object.fromEntries(Object.entries(model.vocab).filter(([token]) => kept(token)));
    const merges = model.merges.filter((merge) => !gone.some((character) => String(merge).includes(character)));
    return new Tokenizer({ tokenizerJson: { ...tokenizerJson, model: { ...model, vocab, merges, ...more } }, tokenizerConfig });
  }
  async function lost(rows: JsonObject[], tokenizer: Tokenizer): Promise<string[]> {
    const places = rows.map((value, i) => ({ value, place: `d.jsonl:${i + 1}` }));
    const { statistics } = await prepareExamples(places, tokenizer, chatmlTemplate, { sequence_len: 512 });
    return dataWarnings(statistics, 'd.jsonl', 512);
  }

  test('are counted by rows and named, though tokenizers leave them out without a word', async () => {
    const tokenizer = lacking();
    expect(tokenizer.decode(tokenizer.encode('a\tb'))).toBe('ab');
    const rows = [chat(), chat({ content: 'A lamp 🪔, and é, 漢.' }), chat({ content: 'It\tis.' }), chat({ content: '🪔' })];
    expect(await lost(rows, tokenizer)).toEqual([
      '3 rows hold characters for which the vocabulary has no token, so that they are lost: of d.jsonl, such as d.jsonl:2: "🪔" in ' +
        '"t|>assistant\\nA lamp 🪔, and é, 漢.<|im_en"',
    ]);
    expect(await lost([{ prompt: 'a', completion: 'b\tc' }], tokenizer)).toEqual([
      '1 row holds characters for which the vocabulary has no token, so that they are lost: of d.jsonl, such as d.jsonl:1: ' +
        '"\\t" in "ab\\tc"',
    ]);
  });

  test('nothing is said where the vocabulary has all bytes, and nothing is encoded for it', async () => {
    for (const kind of ['byte-level', 'byte-level-nfc', 'byte-level-bos', 'llama2', 'gemma']) {
      const tokenizer = goldenTokenizer(kind);
      const text = 'é 漢 🪔 \u{10ffff} \t\0 ﬁ';
      expect(tokenizer.lost(text, tokenizer.encode(text))).toEqual([]);
    }
    expect(await lost([chat({ content: '🪔\t' })], chatml)).toEqual([]);
  });

  test('that become an unknown token', async () => {
    const tokenizerJson = {
      model: { type: 'WordLevel', vocab: { '<unk>': 0, a: 1, b: 2, '</s>': 3 }, unk_token: '<unk>' },
      pre_tokenizer: { type: 'WhitespaceSplit' },
    };
    const tokenizer = new Tokenizer({ tokenizerJson, tokenizerConfig: { eos_token: '</s>', unk_token: '<unk>' } });
    expect(tokenizer.lost('a ß b', tokenizer.encode('a ß b'))).toEqual(['ß']);
  });
});
