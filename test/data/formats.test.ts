import { describe, expect, test } from 'vitest';
import { ChatTemplate } from '../../src/data/chat-template.js';
import type { DatasetOptions } from '../../src/data/formats/index.js';
import { prepareExamples } from '../../src/data/prepare.js';
import { previewSequence } from '../../src/data/preview.js';
import { questionsOf } from '../../src/data/questions.js';
import type { JsonObject, JsonValue } from '../../src/util/json.js';
import { chatml } from './golden.js';

/** Prints every key of a message that a template might read, arguments and tools as JSON. */
const source = `{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content or '' }}
{%- for c in m.tool_calls or [] %}<call>{{ c.function.name }}:
{{- c.function.arguments | tojson }}</call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`;
const template = new ChatTemplate(source, { specialTokens: chatml.specialTokens });

const prepare = (rows: JsonObject[], dataset: DatasetOptions = {}, using = template) =>
  prepareExamples(
    rows.map((value, i) => ({ value, place: `d.jsonl:${i + 1}` })),
    chatml,
    using,
    { sequence_len: 512, dataset, name: 'd.jsonl' },
  );

/** The text of one row as it is trained, supervised parts in ‹ ›. */
async function trained(row: JsonObject, dataset?: DatasetOptions, using?: ChatTemplate): Promise<string> {
  const { examples } = await prepare([row], dataset, using);
  return previewSequence(chatml, examples[0].sequences[0], (text, on) => (on ? `‹${text}›` : text));
}

const asked = { role: 'user', content: 'a' };
const call = (args: JsonValue) => ({
  role: 'assistant',
  content: null,
  tool_calls: [{ type: 'function', function: { name: 'w', arguments: args } }],
});

describe('columns that are read', () => {
  test('a system column leads the conversation, unless the conversation has its own', async () => {
    const conversations = [
      { from: 'human', value: 'a' },
      { from: 'gpt', value: 'b' },
    ];
    const leading = '<|im_start|>system\nSpeak like a pirate.<|im_end|>\n<|im_start|>user\na';
    expect(await trained({ conversations, system: 'Speak like a pirate.' })).toMatch(leading);
    expect(await trained({ messages: [asked, { role: 'assistant', content: 'b' }], system: 'Speak like a pirate.' })).toMatch(leading);
    const own = { messages: [{ role: 'system', content: 'Own.' }, asked, { role: 'assistant', content: 'b' }], system: 'Other.' };
    expect(await trained(own)).toMatch(/^<\|im_start\|>system\nOwn\.<\|im_end\|>\n<\|im_start\|>user/);
    expect((await prepare([own])).statistics.findings).toMatchObject([{ kind: 'column', subject: 'system', example: '"Other."' }]);
  });

  test('alpaca: system stands in the place of the task, history before the instruction', async () => {
    const row = { instruction: 'c', output: 'd', system: 'Be brief.', history: [['a', 'b']] };
    const head = 'Be brief.\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc\n\n### Response:\n';
    expect(await trained(row)).toBe(`${head}‹d<|im_end|>›`);
    await expect(prepare([{ ...row, history: ['a'] }])).rejects.toThrow(/^d\.jsonl:1: history\[0\] is a text\n {2}expected: a pair/);
  });

  test('prompt and completion, as texts and as messages', async () => {
    expect(await trained({ prompt: 'Q: a A:', completion: ' b' })).toBe('Q: a A:‹ b<|im_end|>›');
    const earlier = { role: 'assistant', content: 'shown, not trained' };
    const row = { prompt: [asked, earlier, asked], completion: [{ role: 'assistant', content: 'b' }] };
    const head = '<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n';
    expect(await trained(row)).toBe(`${head}shown, not trained<|im_end|>\n${head}‹b<|im_end|>›\n`);
  });

  test.each(['reasoning', 'reasoning_content', 'thinking'])('%s is the thinking that a template reads under either name', async (key) => {
    const messages = [asked, { role: 'assistant', content: 'b', [key]: 'hm' }];
    expect(await trained({ messages })).toMatch(/assistant\n‹<think>hm<\/think>b<\|im_end\|>›/);
    const other = new ChatTemplate(source.replaceAll('thinking', 'reasoning_content'), { specialTokens: chatml.specialTokens });
    expect(await trained({ messages }, {}, other)).toMatch(/assistant\n‹<think>hm<\/think>b<\|im_end\|>›/);
  });
});

describe('JSON in texts', () => {
  test('arguments of tool calls reach a template that writes JSON as an object', async () => {
    const wanted = /‹<call>w:\{"city": "Ulm", "n": 2\}<\/call><\|im_end\|>›/;
    expect(await trained({ messages: [asked, call('{"city": "Ulm", "n": 2}')] })).toMatch(wanted);
    expect(await trained({ messages: [asked, call({ city: 'Ulm', n: 2 })] })).toMatch(wanted);
  });

  test('and a template that prints the text itself as they are written', async () => {
    const printing = new ChatTemplate(source.replace('arguments | tojson', 'arguments'), { specialTokens: chatml.specialTokens });
    expect(await trained({ messages: [asked, call('{"city":"Ulm"}')] }, {}, printing)).toMatch(/‹<call>w:\{"city":"Ulm"\}<\/call>/);
  });

  test('arguments that are no JSON are named', async () => {
    const { statistics } = await prepare([{ messages: [asked, call('city=Ulm')] }]);
    expect(statistics.findings).toEqual([
      { kind: 'arguments', subject: '', count: 1, place: 'd.jsonl:1: message 2', example: '"city=Ulm"' },
    ]);
  });

  test('tools, whole or one by one', async () => {
    const messages = [asked, { role: 'assistant', content: 'b' }];
    const tool = { type: 'function', function: { name: 'weather' } };
    const wanted = await trained({ messages, tools: [tool] });
    expect(wanted).toContain('<tools>[{"type": "function", "function": {"name": "weather"}}]</tools>');
    expect(await trained({ messages, tools: JSON.stringify([tool]) })).toBe(wanted);
    expect(await trained({ messages, tools: [JSON.stringify(tool)] })).toBe(wanted);
    for (const none of ['', null, '[]', []]) expect(await trained({ messages, tools: none })).not.toContain('<tools>');
    await expect(prepare([{ messages, tools: '[{' }])).rejects.toThrow(/^d\.jsonl:1: "tools" is a text that is not JSON/);
  });
});

describe('training flags', () => {
  const rows = (no: unknown, yes: unknown) => ({
    messages: [asked, { role: 'assistant', content: 'bad', weight: no }, asked, { role: 'assistant', content: 'good', weight: yes }],
  });
  const dataset = { message_field_training: 'weight' };

  test.each([
    [0, 1],
    [false, true],
    [0, null],
  ])('%s is no, %s is yes', async (no, yes) => {
    const text = await trained(rows(no, yes) as JsonObject, dataset);
    expect(text).toContain('assistant\nbad<|im_end|>');
    expect(text).toContain('‹good<|im_end|>›');
    const [question] = questionsOf([{ value: rows(yes, no) as JsonObject, place: 'd.jsonl:1' }], chatml, template, dataset);
    expect(question.answer).toBe('bad');
  });

  test.each([['no'], ['false'], [2], [{}]])('%j is refused, naming the row', async (value) => {
    await expect(prepare([rows(value, 1) as JsonObject], dataset)).rejects.toThrow(
      /^d\.jsonl:1: messages\[1\]: a message's "weight" is .*\n {2}expected: true, false, 1, 0 or null/,
    );
  });
});

describe('advice about unknown keys', () => {
  test.each([
    [{ ticket: 'a', label: 'b' }, /rename ticket to prompt and label to completion/],
    [{ task: 'a', answer: 'b' }, /rename task to prompt and answer to completion/],
    [{ instrution: 'a', output: 'b' }, /mend: rename instrution to instruction$/],
    [{ promt: 'a', completion: 'b', id: 'c' }, /mend: rename promt to prompt$/],
    [{ txt: 'a' }, /mend: rename txt to text$/],
    [{ body: 'a', n: 1 }, /rename body to text, or write type: completion and field: body/],
    [{ a: 'a', b: 'b', c: 'c' }, /mend: write rows as \{"prompt": …, "completion": …\}/],
  ])('%j', async (row, message) => {
    await expect(prepare([row])).rejects.toThrow(message);
    await expect(prepare([row])).rejects.not.toThrow(/rename label to labels/);
  });
});

test('one tool alone is a list of one', async () => {
  const messages = [asked, { role: 'assistant', content: 'b' }];
  const tool = { type: 'function', function: { name: 'w' } };
  expect(await trained({ messages, tools: tool })).toBe(await trained({ messages, tools: [tool] }));
  await expect(prepare([{ messages, tools: 3 }])).rejects.toThrow(/"tools" is a number\n.*a list of tools/);
});

describe('rows as tables hold them', () => {
  test('messages and tool calls as JSON in a text', async () => {
    const messages = [asked, call({ id: 2512292042121000001n.toString() })];
    const plain = await trained({ messages });
    expect(await trained({ messages: JSON.stringify(messages) })).toBe(plain);
    const written = messages.map((message) =>
      'tool_calls' in message ? { ...message, tool_calls: JSON.stringify(message.tool_calls) } : message,
    );
    expect(await trained({ messages: written as JsonValue })).toBe(plain);
    const broken = [asked, { role: 'assistant', tool_calls: 'w()' }];
    await expect(prepare([{ messages: broken }])).rejects.toThrow(/messages\[1\]: a message's tool_calls are the text "w\(\)"/);
  });

  test.each<[string, JsonObject, RegExp]>([
    ['a conversation under another name', { talk: [asked] }, /name the column of the conversation: field_messages: talk/],
    ['a turn as a row', { role: 'user', content: 'a' }, /write each conversation as a row/],
    ['a call of OpenAI’s earlier form', { messages: [{ role: 'assistant', content: null, function_call: {} }] }, /write it as tool_calls/],
  ])('%s: how to mend it is said', async (_, row, message) => {
    await expect(prepare([row])).rejects.toThrow(message);
  });
});

describe('tool calls in ShareGPT’s rows, as LLaMA-Factory writes them', () => {
  const weather = { name: 'w', description: 'Weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } };
  const row = (value: string): JsonObject => ({
    conversations: [
      { from: 'system', value: 'Help.' },
      { from: 'human', value: 'Rain?' },
      { from: 'function_call', value },
      { from: 'observation', value: '{"rain": 1.0}' },
      { from: 'gpt', value: 'Yes.' },
    ],
    tools: JSON.stringify([weather]),
  });
  const shown = (calls: string) =>
    `<tools>[{"type": "function", "function": ${'{"name": "w", "description": "Weather", '}"parameters": {"type": "object", ` +
    '"properties": {"city": {"type": "string"}}}}}]</tools><|im_start|>system\nHelp.<|im_end|>\n' +
    `<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n‹${calls}<|im_end|>›\n` +
    '<|im_start|>tool\n{"rain": 1.0}<|im_end|>\n<|im_start|>assistant\n‹Yes.<|im_end|>›\n';

  test('calls are learnt, results are not, and tools have the form that templates read', async () => {
    expect(await trained(row('{"name": "w", "arguments": {"city": "Ulm"}}'))).toBe(shown('<call>w:{"city": "Ulm"}</call>'));
    // Arguments as text, several calls at once, and numbers as they are written.
    expect(await trained(row('[{"name": "w", "arguments": "{\\"id\\": 2512292042121000001}"}, {"name": "w", "arguments": {}}]'))).toBe(
      shown('<call>w:{"id": 2512292042121000001}</call><call>w:{}</call>'),
    );
  });

  test('what is no call is refused, or is text where roles say so', async () => {
    await expect(prepare([row('call w')])).rejects.toThrow(
      /^d\.jsonl:1: conversations\[2\]: a function_call is "call w"\n.*JSON as text: \{"name": …[\s\S]*set roles:/,
    );
    const roles = { user: ['human', 'observation'], assistant: ['gpt', 'function_call'] };
    expect(await trained(row('call w'), { roles })).toContain('assistant\n‹call w<|im_end|>›\n<|im_start|>user\n{"rain": 1.0}<|im_end|>');
  });

  test('tools of rows with role and content stay as they are written', async () => {
    expect(await trained({ messages: [asked, { role: 'assistant', content: 'b' }], tools: [weather] })).toContain('<tools>[{"name": "w"');
  });
});
