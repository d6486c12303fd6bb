import { describe, expect, test } from 'vitest';
import type { Message } from '../../src/data/chat-template.js';
import { alpacaPrompt, type DatasetOptions } from '../../src/data/formats/index.js';
import { type PrepareOptions, prepareExamples } from '../../src/data/prepare.js';
import { previewSequence } from '../../src/data/preview.js';
import { parseRow, readRows, rowTexts } from '../../src/data/rows.js';
import { strftime } from '../../src/data/strftime.js';
import type { Tokenizer } from '../../src/data/tokenizer.js';
import type { JsonObject } from '../../src/util/json.js';
import { chatml, chatmlTemplate, chatTemplate, clock, goldenTokenizer, templateSource } from './golden.js';

const jsonl = (...rows: JsonObject[]) => rows.map((row) => JSON.stringify(row)).join('\n');
const chat = (...contents: string[]): { messages: Message[] } => ({
  messages: contents.map((content, i) => ({ role: i % 2 ? 'assistant' : 'user', content })),
});

async function prepare(text: string, dataset: DatasetOptions = {}, options: Partial<PrepareOptions> = {}, tokenizer = chatml) {
  return prepareExamples(await readRows(text, 'data.jsonl'), tokenizer, chatmlTemplate, { sequence_len: 256, dataset, ...options });
}

/** The supervised text in double brackets. */
async function preview(row: JsonObject, dataset: DatasetOptions = {}, tokenizer: Tokenizer = chatml): Promise<string> {
  const { examples } = await prepare(jsonl(row), dataset, {}, tokenizer);
  return previewSequence(tokenizer, examples[0].sequences[0], (text, on) => (on ? `[[${text}]]` : text)).replace(
    /^<\|im_start\|>system\n.*?assistant\.<\|im_end\|>\n/,
    '',
  );
}

const row = chat('Hi', 'Hello!', 'Bye', 'See you 🎉');
const [user, assistant, end] = ['<|im_start|>user\n', '<|im_start|>assistant\n', '<|im_end|>'];

describe('what is supervised', () => {
  test.each<[string, DatasetOptions, string]>([
    [
      'the assistant and its terminator',
      {},
      `${user}Hi${end}\n${assistant}[[Hello!${end}]]\n${user}Bye${end}\n${assistant}[[See you 🎉${end}]]\n`,
    ],
    [
      'train_on_eos: none',
      { train_on_eos: 'none' },
      `${user}Hi${end}\n${assistant}[[Hello!]]${end}\n${user}Bye${end}\n${assistant}[[See you 🎉]]${end}\n`,
    ],
    [
      'train_on_eos: last',
      { train_on_eos: 'last' },
      `${user}Hi${end}\n${assistant}[[Hello!]]${end}\n${user}Bye${end}\n${assistant}[[See you 🎉${end}]]\n`,
    ],
    [
      'roles_to_train: user',
      { roles_to_train: ['user'] },
      `${user}[[Hi${end}]]\n${assistant}Hello!${end}\n${user}[[Bye${end}]]\n${assistant}See you 🎉${end}\n`,
    ],
    [
      'roles_to_train: both',
      { roles_to_train: ['user', 'assistant'] },
      `${user}[[Hi${end}]]\n${assistant}[[Hello!${end}]]\n${user}[[Bye${end}]]\n${assistant}[[See you 🎉${end}]]\n`,
    ],
  ])('%s', async (_, dataset, expected) => {
    expect(await preview(row, dataset)).toBe(expected);
  });

  test('train_on_eos: all includes the terminators of other turns, the system’s too', async () => {
    const { examples } = await prepare(jsonl(row), { train_on_eos: 'all' });
    const [{ inputIds, labels }] = examples[0].sequences;
    const ends = [...inputIds].filter((id) => id === chatml.eosTokenId).length;
    expect(ends).toBe(5);
    expect([...labels].filter((id) => id === chatml.eosTokenId).length).toBe(ends);
  });

  test('train_on_inputs supervises every token', async () => {
    const { examples } = await prepare(jsonl(row), { train_on_inputs: true });
    const [{ inputIds, labels }] = examples[0].sequences;
    expect(labels).toEqual(inputIds);
  });

  test('message_field_training chooses turns', async () => {
    const messages = row.messages.map((message, i) => ({ ...message, train: i === 2 }));
    const expected = `${user}Hi${end}\n${assistant}Hello!${end}\n${user}[[Bye${end}]]\n${assistant}See you 🎉${end}\n`;
    expect(await preview({ messages }, { message_field_training: 'train' })).toBe(expected);
  });

  test('ShareGPT, renamed keys, other roles and content in parts are the same conversation', async () => {
    const same = await prepare(jsonl(row));
    const variants: [JsonObject, DatasetOptions][] = [
      [{ conversations: row.messages.map(({ role, content }) => ({ from: role === 'user' ? 'human' : 'gpt', value: content })) }, {}],
      [
        { talk: row.messages.map(({ role, content }) => ({ who: role === 'user' ? 'Q' : 'A', what: content })) },
        { field_messages: 'talk', message_property_mappings: { role: 'who', content: 'what' }, roles: { user: ['Q'], assistant: ['A'] } },
      ],
      [{ messages: row.messages.map(({ role, content }) => ({ role, content: [{ type: 'text', text: content }] })) }, {}],
      [{ messages: [{ role: 'system', content: 'Be brief.' }, ...row.messages] }, { drop_system_message: true }],
    ];
    for (const [variant, dataset] of variants) expect((await prepare(jsonl(variant), dataset)).examples).toEqual(same.examples);
  });

  test('alpaca: the completion and eos, after the prompt of the Alpaca data set', async () => {
    const head = 'Below is an instruction that describes a task, paired with an input that provides further context. Write a response that';
    const prompt = `${head} appropriately completes the request.\n\n### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n`;
    const tokenizer = goldenTokenizer('llama2');
    expect(await preview({ instruction: 'Add', input: '1 2', output: '3' }, {}, tokenizer)).toBe(`<s> ${prompt}[[3</s>]]`);
    const short = alpacaPrompt('Add', '');
    expect(short).toBe(
      `${head.replace(', paired with an input that provides further context', '')} appropriately completes the request.\n\n### ` +
        `Instruction:\nAdd\n\n### Response:\n`,
    );
    expect(await preview({ instruction: 'Add', input: '', output: '3' })).toBe(`${short}[[3${end}]]`);
  });

  test('completion: all of the text but the first token, and eos', async () => {
    expect(await preview({ text: 'Hello you' }, {}, goldenTokenizer('llama2'))).toBe('<s>[[ Hello you</s>]]');
  });

  test('tokenized rows are taken as they are', async () => {
    const { examples } = await prepare(jsonl({ input_ids: [20, 21, 22], labels: [-100, 21, 22] }));
    expect(examples).toEqual([
      { sequences: [{ inputIds: Int32Array.of(20, 21, 22), labels: Int32Array.of(-100, 21, 22) }], row: 'data.jsonl:1' },
    ]);
  });
});

describe('turns of awkward templates', () => {
  const place = 'row';
  const supervised = async (source: string, messages: Message[], kind = 'byte-level', dataset: DatasetOptions = {}) => {
    const tokenizer = goldenTokenizer(kind);
    const template = chatTemplate(source, tokenizer);
    const { examples } = await prepareExamples([{ value: { messages }, place }], tokenizer, template, { sequence_len: 256, dataset });
    return previewSequence(tokenizer, examples[0].sequences[0], (text, on) => (on ? `[[${text}]]` : text));
  };

  test('a template without a generation prompt: the role’s name is not the assistant’s', async () => {
    const source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}";
    expect(await supervised(source, chat('Hi', 'Hello').messages)).toBe(`${user}Hi${end}\n${assistant}[[Hello${end}]]\n`);
  });

  test('tags that leave the terminator out: it is supervised all the same', async () => {
    const source = templateSource('chatml').replace(
      "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}",
      "{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
    );
    expect(source).not.toBe(templateSource('chatml'));
    expect(await supervised(source, chat('Hi', 'Hello').messages)).toContain(`${assistant}[[Hello${end}]]\n`);
  });

  test('a conversation that begins with the assistant, of a template that needs a first message', async () => {
    const source = "{{ messages[0].role | upper }}\n{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}";
    const messages = [{ role: 'assistant', content: 'Hello' }];
    expect(await supervised(source, messages)).toBe(`ASSISTANT\nassistant: [[Hello${end}]]`);
  });

  test('a token that reaches across the edge of a turn is supervised', async () => {
    const source = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";
    expect(await supervised(source, chat('The ans', 'wer').messages)).toBe(`The[[ answer${end}]]`);
    expect(await supervised(source, chat('The', ' answer').messages)).toBe(`The[[ answer${end}]]`);
    expect(await supervised(source, chat('Thé ans', 'wer e\u0301').messages, 'byte-level-nfc')).toBe(`Thé[[ answer é${end}]]`);
    expect(await supervised(source, chat('cafe', '\u0301 is').messages, 'byte-level-nfc')).toBe(`caf[[é is${end}]]`);
  });

  test('a word in place of a terminator is refused; naming it mends that only if it is one token', async () => {
    const source = "{% for m in messages %}{{ m.role + ': ' + m.content + '</think>' }}{% endfor %}";
    await expect(supervised(source, chat('Hi', 'Hello').messages)).rejects.toThrow(/ends without a special token/);
    const eot = { eot_tokens: ['</think>'] };
    expect(await supervised(source, chat('Hi', 'Hello').messages, 'byte-level', eot)).toBe('user: Hi</think>assistant: [[Hello</think>]]');
    await expect(supervised(source, chat('Hi', 'Hello').messages, 'byte-level', { eot_tokens: ['###'] })).rejects.toThrow(
      /eot_tokens.*###/,
    );
  });
});

describe('lengths', () => {
  const rows = jsonl(chat('Hi', 'Hello!'), chat('Hi', 'word '.repeat(80)), chat('long '.repeat(90), 'x'));

  test('drop, the default', async () => {
    const { examples, statistics } = await prepare(rows, {}, { sequence_len: 64 });
    expect(examples.map((example) => example.row)).toEqual(['data.jsonl:1']);
    expect(statistics).toMatchObject({ rows: 3, examples: 1, dropped: 2, truncated: 0, tokens: examples[0].sequences[0].inputIds.length });
  });

  test('truncate drops what has nothing supervised left', async () => {
    const { examples, statistics } = await prepare(rows, {}, { sequence_len: 64, excess_length_strategy: 'truncate' });
    expect(examples.map((example) => [example.row, example.sequences[0].inputIds.length])).toEqual([
      ['data.jsonl:1', expect.any(Number)],
      ['data.jsonl:2', 64],
    ]);
    expect(statistics).toMatchObject({ rows: 3, examples: 2, dropped: 1, truncated: 1 });
  });

  test('raise names the row', async () => {
    const promise = prepare(rows, {}, { sequence_len: 64, excess_length_strategy: 'raise' });
    await expect(promise).rejects.toThrow(/^data\.jsonl:2: the example has \d+ tokens, more than sequence_len 64/);
  });

  test('the histogram counts all rows, whatever becomes of them', async () => {
    const { examples, statistics } = await prepare(rows, {}, { sequence_len: 1024 });
    const lengths = examples.map((example) => example.sequences[0].inputIds.length);
    for (const { upTo, count } of statistics.histogram) {
      expect(count).toBe(lengths.filter((length) => length <= upTo && length > (upTo === 16 ? 0 : upTo / 2)).length);
    }
    expect(statistics.histogram.reduce((sum, { count }) => sum + count, 0)).toBe(3);
    expect(statistics.longest).toBe(Math.max(...lengths));
    const labels = examples.flatMap((example) => [...example.sequences[0].labels]);
    expect(statistics.supervised).toBe(labels.filter((label) => label !== -100).length);
  });
});

test('lines that arrive one by one, an array in lines, BOM, CRLF and blank lines give the same rows', async () => {
  const values = [row, chat('a "quoted]" {', 'b,\\ ]')];
  const lines = [`\ufeff${JSON.stringify(values[0])}`, '', `${JSON.stringify(values[1])}\r`, ''];
  const streamed: unknown[] = [];
  const bytes = lines.map((line, i) => new TextEncoder().encode(line + (i + 1 < lines.length ? '\n' : '')));
  for await (const read of rowTexts(bytes, 'd.jsonl')) streamed.push(parseRow(read, 'd.jsonl'));
  const expected = [values[0], values[1]].map((value, i) => ({ value, place: `d.jsonl:${2 * i + 1}` }));
  expect(streamed).toEqual(expected);
  expect(await readRows(lines.join('\n'), 'd.jsonl')).toEqual(expected);
  expect(await readRows(lines.join('\n'), 'd.json')).toEqual(
    expected.map(({ value, place }) => ({ value, place: place.replace('jsonl', 'json') })),
  );
  const array = `\ufeff [\r\n${JSON.stringify(values[0])},\r\n\r\n${JSON.stringify(values[1], null, 2)}]\n`;
  expect(await readRows(array, 'd.json')).toEqual([
    { value: values[0], place: 'd.json:2' },
    { value: values[1], place: 'd.json:4' },
  ]);
});

test('strftime is Python’s', () => {
  const format = '%a %A %b %B %d %-d %H %I %j %m %M %p %S %y %Y %% %Q';
  expect(strftime(clock(), format)).toBe('Sat Saturday Jul July 06 6 15 03 188 07 04 PM 05 24 2024 % %Q');
});
