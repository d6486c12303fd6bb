import { describe, expect, test } from 'vitest';
import { ChatTemplate, type Message } from '../../src/data/chat-template.js';
import type { DatasetOptions } from '../../src/data/formats/index.js';
import { prepareExamples } from '../../src/data/prepare.js';
import { readRows } from '../../src/data/rows.js';
import { Tokenizer } from '../../src/data/tokenizer.js';
import { LowrankError } from '../../src/util/errors.js';
import { type JsonValue, parseJsonObject } from '../../src/util/json.js';
import { chatml, chatmlTemplate, goldenTokenizer } from './golden.js';

/** The error of something that must fail, which is ours and says what to do. */
async function errorOf(run: () => unknown): Promise<LowrankError> {
  const error = await Promise.resolve()
    .then(run)
    .then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
  expect(error).toBeInstanceOf(LowrankError);
  expect((error as LowrankError).message.length).toBeLessThan(1000);
  return error as LowrankError;
}

const good = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}';

describe('data', () => {
  const prepare = async (text: string, name: string, dataset: DatasetOptions) =>
    prepareExamples(await readRows(text, name), chatml, chatmlTemplate, { sequence_len: 64, dataset });

  test.each<[string, string, RegExp, DatasetOptions?]>([
    ['a broken line', `${good}\n\n{"messages": [}\n`, /^d\.jsonl:3:\d+: not valid JSON/],
    ['a line that ends early', `${good}\r\n{"messages": [`, /^d\.jsonl:2:15: not valid JSON/],
    ['a line after a BOM', '\ufeff{"messages": ]}', /^d\.jsonl:1:\d+: not valid JSON/],
    ['a row that is a list', `${good}\n[1]`, /^d\.jsonl:2: the row is not an object/],
    ['an empty file', '', /holds no rows/],
    ['a file of blank lines', '\n \r\n\ufeff', /holds no rows/],
    ['an empty array', '[]', /holds no rows/],
    ['hostile nesting', `{"messages": ${'['.repeat(1e5)}`, /^d\.jsonl:1:\d+: nested deeper/],
    ['hostile nesting, closed', `{"messages": ${'['.repeat(5000)}${']'.repeat(5000)}}`, /^d\.jsonl:1:\d+: nested deeper/],
    ['a prototype key', '{"__proto__": {"messages": []}}', /__proto__/],
    ['an inner prototype key', '{"messages": [{"role": "user", "content": "a", "__proto__": {"x": 1}}]}', /__proto__/],
    ['unknown keys', '{"mesages": [], "id": 1}', /^d\.jsonl:1: no format has the keys "mesages", "id"[\s\S]*rename mesages to messages/],
    ['no keys', '{}', /^d\.jsonl:1: no format has the keys \(none\)/],
    ['messages that are no list', '{"messages": "hello"}', /^d\.jsonl:1: "messages" is a text\n {2}expected: a list/],
    ['an empty conversation', '{"messages": []}', /^d\.jsonl:1: the conversation is empty/],
    ['a message that is a text', '{"messages": ["hello"]}', /^d\.jsonl:1: messages\[0\]: a message is a text/],
    ['a role that is a number', '{"messages": [{"role": 7, "content": "a"}]}', /^d\.jsonl:1: messages\[0\]: .*"role" is a number/],
    ['an empty role', '{"messages": [{"role": "", "content": "a"}]}', /"role" is an empty text/],
    ['a misspelt role', '{"messages": [{"rol": "user", "content": "a"}]}', /no "role"[\s\S]*rename rol to role/],
    ['no content', `${good}\n{"messages": [{"role": "user"}]}`, /^d\.jsonl:2: messages\[0\]: a message has no "content"/],
    ['content that is a number', '{"messages": [{"role": "user", "content": 1}]}', /content is a number/],
    ['content with a picture', '{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', /content is a list/],
    ['another format in a later row', `${good}\n{"text": "a"}`, /^d\.jsonl:2: the row has no "messages"/],
    ['alpaca without output', '{"instruction": "a", "ouput": "b"}', /no "output"[\s\S]*rename ouput to output/, { type: 'alpaca' }],
    ['alpaca with a number', '{"instruction": 5, "output": "b"}', /^d\.jsonl:1: "instruction" is a number/],
    ['all labels masked', `${good}\n{"messages":[{"role":"user","content":"a"}]}`, /1 of 2 rows has no supervised token: d\.jsonl:2\n/],
    ['a role that nobody has', good, /1 of 1 row has no supervised token: d\.jsonl:1/, { roles_to_train: ['bot'] }],
    ['an empty completion', '{"text": ""}', /no supervised token: d\.jsonl:1/],
    ['token ids that are no ids', '{"input_ids": [1, 2.5], "labels": [1, 2.5]}', /^d\.jsonl:1: input_ids\[1\] is 2\.5/],
    ['token ids beyond the vocabulary', '{"input_ids": [1, 99999], "labels": [1, 99999]}', /input_ids\[1\] is 99999/],
    ['shifted labels', '{"input_ids": [20, 21, 22], "labels": [21, 22, -100]}', /^d\.jsonl:1: labels\[0\] is 21 and input_ids\[0\] is 20/],
    ['labels of another length', '{"input_ids": [20, 21], "labels": [20]}', /input_ids has 2 entries and labels 1/],
    ['a masked terminator', '{"input_ids": [20, 21, 2], "labels": [-100, 21, -100]}', /eos token at position 2 is masked/],
    [
      'a giant row',
      `{"messages":[{"role":"user","content":"${'a '.repeat(1e5)}"}, {"role":"assistant","content":"b"}]}`,
      /longer than sequence_len 64/,
    ],
  ])('%s', async (_, text, message, dataset = {}) => {
    const error = await errorOf(() => prepare(text, 'd.jsonl', dataset));
    expect(error.message).toMatch(message);
    expect(error.place).toBeTruthy();
    expect(error.mend).toBeTruthy();
  });

  test('an object in a .json file', async () => {
    const text = JSON.stringify({ data: [JSON.parse(good)] }, null, 2);
    expect((await errorOf(() => prepare(text, 'd.json', {}))).message).toMatch(
      /^d\.json:1:1: the top level is an object[\s\S]*array of objects/,
    );
  });

  test('a broken element of an array, by line and column', async () => {
    expect((await errorOf(() => prepare(`[\n${good},\n{"messages" 5}\n]`, 'd.json', {}))).message).toMatch(
      /^d\.json:3:1\d: not valid JSON/,
    );
    const error = await errorOf(() => prepare(`[\n${good},\n\n  7]`, 'd.json', {}));
    expect(error.message).toMatch(/^d\.json:4: the row is not an object/);
  });

  test('sequence_len that is no length', async () => {
    for (const sequence_len of [0, 1, -5, 2.5, Number.NaN]) {
      const error = await errorOf(() => prepareExamples([], chatml, chatmlTemplate, { sequence_len }));
      expect(error.message).toMatch(/sequence_len: is/);
    }
  });

  test('conversations for a model without a chat template', async () => {
    const rows = await readRows(good, 'd.jsonl');
    expect((await errorOf(() => prepareExamples(rows, chatml, undefined, { sequence_len: 64 }))).message).toMatch(/no chat template/);
  });

  test('two bos tokens', async () => {
    const tokenizer = goldenTokenizer('llama2');
    const rows = await readRows('{"text": "<s>hello"}', 'd.jsonl');
    expect((await errorOf(() => prepareExamples(rows, tokenizer, undefined, { sequence_len: 64 }))).message).toMatch(
      /^d\.jsonl:1: .*two bos/,
    );
    const template = new ChatTemplate('{{ bos_token }}{{ bos_token }}{{ messages[0].content }}', {
      specialTokens: tokenizer.specialTokens,
    });
    const chat = [{ value: JSON.parse(good), place: 'd.jsonl:1' }];
    expect((await errorOf(() => prepareExamples(chat, tokenizer, template, { sequence_len: 64 }))).message).toMatch(/two bos/);
  });
});

describe('chat templates', () => {
  const messages: Message[] = [{ role: 'user', content: 'a' }];

  test.each<[string, string]>([
    ['an open block', '{% for m in messages %}{{ m.content }}'],
    ['an open expression', '{{ messages[0].content '],
    ['a stray end', '{% endfor %}'],
    ['an open text', '{{ "abc }}'],
    ['an open comment', '{# abc'],
    ['a tag that the engine does not know', '{% include "x" %}'],
    ['deep brackets', `{{ ${'('.repeat(1e5)}1${')'.repeat(1e5)} }}`],
    ['too long', 'x'.repeat(300_000)],
    ['a generation block without end', '{% generation %}a'],
    ['a break outside of a loop', '{% for a in b %}{% generation %}{% break %}{% endgeneration %}{% endfor %}'],
  ])('%s is refused when read', async (_, source) => {
    const error = await errorOf(() => new ChatTemplate(source));
    expect(error.message).toMatch(/^chat template: not a readable Jinja template: .*\n {2}to mend: /);
  });

  test.each<[string, string, RegExp]>([
    [
      'loops without end',
      '{% for a in range(90000) %}{% for b in range(90000) %}{{ b }}{% endfor %}{% endfor %}',
      /does not come to an end|grows/,
    ],
    [
      'empty loops',
      '{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(9) %}{% endfor %}{% endfor %}{% endfor %}',
      /end/,
    ],
    ['a range without end', '{% for a in range(1000000000) %}{% endfor %}', /range\(1000000000\) is longer/],
    ['a range of step 0', '{{ range(0, 5, 0) }}', /range/],
    ['a range of text', '{{ range("5") }}', /integers/],
    ['recursion without end', '{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}', /recurses/],
    [
      'text that doubles',
      '{% set n = namespace(x="aaaaaaaa") %}{% for i in range(90) %}{% set n.x = n.x ~ n.x %}{% endfor %}',
      /text grows beyond/,
    ],
    [
      'a list that doubles',
      '{% set n = namespace(x=[1]) %}{% for i in range(90) %}{% set n.x = n.x + n.x %}{% endfor %}',
      /list grows beyond/,
    ],
    ['an exception of its own', '{{ raise_exception("Only tools, please") }}', /refuses the conversation: Only tools, please/],
    ['a long exception', '{{ raise_exception("x" ~ range(50000) | list) }}', /refuses the conversation: x\[0, 1, 2/],
    ['a filter that does not exist', '{{ messages | nonsense }}', /nonsense/],
    ['a call of what is no function', '{{ messages[0].content() }}', /call/],
    ['loops that do nothing', '{% set r = range(90000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}', /come to an end/],
    ['filtered loops', '{% set r = range(90000) %}{% for a in r %}{% for b in r if b < 0 %}{% endfor %}{% endfor %}', /come to an end/],
    ['a missing key in a sum', '{{ "a" ~ messages[0].nothing.more + 1 }}', /fails/],
    ['nested generation blocks', '{% generation %}{% generation %}a{% endgeneration %}{% endgeneration %}', /nested/],
  ])('%s', async (_, source, message) => {
    const template = new ChatTemplate(source);
    const error = await errorOf(() => template.render(messages, { place: 'd.jsonl:9' }));
    expect(error.message).toMatch(message);
    expect(error.place).toBe('d.jsonl:9');
  });

  test('a template reaches nothing but its variables', () => {
    const source =
      '{{ messages.constructor is defined }} {{ messages[0].__proto__ is defined }} {{ process is defined }} {{ "a".constructor ' +
      'is defined }}';
    expect(new ChatTemplate(source).render(messages).text).toBe('False False False False');
  });

  test('a template in which nothing of a turn is printed', async () => {
    const template = new ChatTemplate('{% for m in messages %}{{ m.role }}{% endfor %}{{ eos_token }}', {
      specialTokens: chatml.specialTokens,
    });
    const rows = [
      {
        value: { messages: ['a', 'bb', 'c'].map((content, i) => ({ role: i === 1 ? 'assistant' : 'user', content })) },
        place: 'd.jsonl:4',
      },
    ];
    const error = await errorOf(() => prepareExamples(rows, chatml, template, { sequence_len: 64 }));
    expect(error.message).toMatch(/^d\.jsonl:4: the chat template renders turn 2 \(assistant\) so that nothing of it is in the text/);
  });
});

describe('tokenizers', () => {
  const model = { type: 'BPE', vocab: { a: 0, b: 1 }, merges: [] };
  test.each<[string, string]>([
    ['no model', '{}'],
    ['a model without type', '{"model": {"vocab": {}}}'],
    ['a type that does not exist', '{"model": {"type": "Magic", "vocab": {"a": 0}}}'],
    ['no vocabulary', '{"model": {"type": "BPE"}}'],
    ['a vocabulary of text', '{"model": {"type": "BPE", "vocab": "abc", "merges": []}}'],
    ['a negative id', JSON.stringify({ model: { ...model, vocab: { a: -1 } } })],
    ['a fractional id', JSON.stringify({ model: { ...model, vocab: { a: 0.5 } } })],
    ['a huge id', JSON.stringify({ model: { ...model, vocab: { a: 4e9 } } })],
    ['a huge id of an added token', JSON.stringify({ model, added_tokens: [{ id: 4e9, content: 'x' }] })],
    ['an added token without content', JSON.stringify({ model, added_tokens: [{ id: 5 }] })],
    ['an empty added token', JSON.stringify({ model, added_tokens: [{ id: 5, content: '' }] })],
    ['added tokens that are no list', JSON.stringify({ model, added_tokens: {} })],
    ['unigram entries that are no pairs', '{"model": {"type": "Unigram", "vocab": [["a", 0], ["b"]], "unk_id": 0}}'],
    ['a pre-tokenizer that does not exist', JSON.stringify({ model, pre_tokenizer: { type: 'Magic' } })],
    [
      'a post-processor with an unknown token',
      JSON.stringify({
        model,
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: '<x>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
          pair: [],
        },
      }),
    ],
  ])('%s', async (_, text) => {
    const error = await errorOf(() => new Tokenizer({ tokenizerJson: parseJsonObject(text, 'tokenizer.json') }));
    expect(error.message).toMatch(/^tokenizer\.json: /);
  });

  const template = (single: JsonValue) => JSON.stringify({ model, post_processor: { type: 'TemplateProcessing', single, pair: [] } });
  test.each<[string, string]>([
    ['a post-processor that is a text', JSON.stringify({ model, post_processor: 'x' })],
    ['a post-processor without a type', JSON.stringify({ model, post_processor: {} })],
    ['a template that is null', template(null)],
    ['a template of numbers', template([1, 2])],
    ['a template whose token is null', template([{ SpecialToken: null }, { Sequence: { id: 'A' } }])],
    ['a template whose token is a list', template([{ SpecialToken: { id: [1] } }, { Sequence: { id: 'A', type_id: 0 } }])],
    ['a template without the text', template([{ SpecialToken: { id: 'a', type_id: 0 } }])],
    ['a template with the text twice', template([{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }])],
    ['BERT’s without its tokens', JSON.stringify({ model, post_processor: { type: 'BertProcessing' } })],
    ['RoBERTa’s with numbers', JSON.stringify({ model, post_processor: { type: 'RobertaProcessing', cls: [1], sep: 2 } })],
    ['a sequence of null', JSON.stringify({ model, post_processor: { type: 'Sequence', processors: [null] } })],
    ['merges that are numbers', JSON.stringify({ model: { ...model, merges: [1] } })],
    ['merges that are no pairs', JSON.stringify({ model: { ...model, merges: [['a']] } })],
    ['a normalizer of null in a sequence', JSON.stringify({ model, normalizer: { type: 'Sequence', normalizers: [null] } })],
    ['a decoder that is a list', JSON.stringify({ model, decoder: [] })],
    ['a pattern that is a number', JSON.stringify({ model, pre_tokenizer: { type: 'Split', pattern: { Regex: 5 } } })],
    ['a pattern that is none', JSON.stringify({ model, pre_tokenizer: { type: 'Split', pattern: { Regex: '(' } } })],
    ['a behaviour that is a number', JSON.stringify({ model, pre_tokenizer: { type: 'Split', pattern: { Regex: 'a' }, behavior: 5 } })],
  ])('%s is refused when read or used, in our words', async (_, text) => {
    const error = await errorOf(() => {
      const tokenizer = new Tokenizer({ tokenizerJson: parseJsonObject(text, 'tokenizer.json') });
      tokenizer.decode(tokenizer.encode('ab ba', { addSpecialTokens: true }));
    });
    expect(error.message).toMatch(/^tokenizer\.json: /);
    expect(error.mend).toBeTruthy();
  });

  test('characters that cannot be encoded', async () => {
    const words = new Tokenizer({ tokenizerJson: { model: { ...model, type: 'WordLevel' } } });
    expect(words.encode('a')).toEqual([0]);
    expect((await errorOf(() => words.encode('c'))).message).toMatch(/cannot encode "c"/);
    expect((await errorOf(() => words.decode([0, 7]))).message).toMatch(/token id 7/);
  });

  test('Unigram with byte_fallback is refused only where it needs bytes', async () => {
    const vocab = [
      ['<unk>', 0],
      ['a', -1],
      ['b', -1],
      ...Array.from({ length: 256 }, (_, i) => [`<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`, -9]),
    ];
    const unigram = { type: 'Unigram', unk_id: 0, vocab: vocab as [string, number][] };
    const bytes = new Tokenizer({ tokenizerJson: { model: { ...unigram, byte_fallback: true } } });
    expect(bytes.encode('ab')).toEqual([1, 2]);
    expect((await errorOf(() => bytes.encode('aé'))).message).toMatch(/byte_fallback/);
    expect(new Tokenizer({ tokenizerJson: { model: { ...unigram, byte_fallback: false } } }).encode('aé')).toEqual([1, 0]);
  });

  test('a padding token that is the eos token is none', () => {
    const { padTokenId, eosTokenId } = chatml;
    expect([padTokenId, eosTokenId]).toEqual([undefined, 2]);
    expect(goldenTokenizer('byte-level-nfc').padTokenId).toBe(0);
  });

  test('special tokens given as objects, and named chat templates', () => {
    const tokenizerConfig = {
      eos_token: { content: 'b', special: true },
      chat_template: [
        { name: 'tool_use', template: 'T' },
        { name: 'default', template: 'D' },
      ],
    };
    const tokenizer = new Tokenizer({ tokenizerJson: { model }, tokenizerConfig });
    expect(tokenizer.eosTokenId).toBe(1);
    expect(tokenizer.isSpecial(1)).toBe(true);
    expect(tokenizer.chatTemplate).toBe('D');
    expect(new Tokenizer({ tokenizerJson: { model }, tokenizerConfig, chatTemplate: 'J' }).chatTemplate).toBe('J');
  });
});
