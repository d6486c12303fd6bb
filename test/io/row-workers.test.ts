import { describe, expect, test } from 'vitest';
import { ChatTemplate } from '../../src/data/chat-template.js';
import { type PreparedData, type PrepareOptions, prepareExamples, type RowWorkers } from '../../src/data/prepare.js';
import { RowFile } from '../../src/data/rows.js';
import type { Tokenizer } from '../../src/data/tokenizer.js';
import { openRowWorkers } from '../../src/io/node/row-workers.js';
import { Random } from '../../src/util/philox.js';
import { chatTemplate, golden, goldenTokenizer, templateSource } from '../data/golden.js';

const words = ['größer', '漢字', '🎉', "L'été", 'the', 'answer', 'forty-two', 'if (x) {', '\n\n', 'e\u0301', '1234567'];

/** Lines of chats of one to three rounds; some are longer than 96 tokens. */
function chats(count: number, seed = 5): string[] {
  const random = new Random(seed, 0);
  const text = () =>
    Array.from({ length: 1 + Math.floor(random.next() * 9) }, () => words[Math.floor(random.next() * words.length)]).join(' ');
  return Array.from({ length: count }, () => {
    const rounds = 1 + Math.floor(random.next() * 3);
    const messages = Array.from({ length: 2 * rounds }, (_, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', content: text() }));
    return JSON.stringify({ messages });
  });
}

function fileOf(lines: readonly string[]): RowFile {
  const content = new TextEncoder().encode(lines.join('\n'));
  return new RowFile('d.jsonl', content.length, async function* () {
    for (let at = 0; at < content.length; at += 10_000) yield content.slice(at, at + 10_000);
  });
}

interface Setting {
  tokenizer: Tokenizer;
  template: ChatTemplate;
}

const settingOf = (kind: string, template: string): Setting => {
  const tokenizer = goldenTokenizer(kind);
  return { tokenizer, template: chatTemplate(templateSource(template), tokenizer) };
};

async function withWorkers<T>(count: number, { tokenizer, template }: Setting, use: (workers?: RowWorkers) => Promise<T>): Promise<T> {
  const workers = count === 0 ? undefined : await openRowWorkers(tokenizer, template, count);
  try {
    return await use(workers);
  } finally {
    await workers?.close();
  }
}

const prepare = (setting: Setting, lines: readonly string[], count: number, options: Partial<PrepareOptions> = {}) =>
  withWorkers(count, setting, (workers) =>
    prepareExamples(fileOf(lines), setting.tokenizer, setting.template, { sequence_len: 96, ...options }, { workers }),
  );

/** The same in plain lists, which are compared by content and shown where they differ. */
const listed = ({ examples, statistics }: PreparedData) => ({
  statistics,
  examples: examples.map(({ row, sequences: [{ inputIds, labels }] }) => ({ row, inputIds: [...inputIds], labels: [...labels] })),
});

describe.each([
  ['byte-level', 'chatml'],
  ['byte-level-nfc', 'qwen'],
  ['byte-level-bos', 'llama3'],
  ['llama2', 'llama2'],
  ['gemma', 'gemma'],
])('%s', (kind, template) => {
  test('threads with the Rust tokenizer give what one thread gives with the other, in the same order, however many there are', async () => {
    const setting = settingOf(kind, template);
    const lines = chats(1200);
    const here = listed(await prepare(setting, lines, 0));
    expect(here.statistics).toMatchObject({ rows: 1200, type: 'chat_template' });
    expect(here.statistics.dropped).toBeGreaterThan(10);
    for (const count of [1, 3]) expect(listed(await prepare(setting, lines, count))).toEqual(here);
  });
});

test('threads render as the template here does: by the same clock, and by the template for tools where a row has tools', async () => {
  const tokenizer = goldenTokenizer('byte-level');
  const turns = '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}';
  const template = new ChatTemplate(`{{ strftime_now("%H:%M:%S %d %m %Y") }}\n${turns}`, {
    toolUse: `{{ tools | tojson }}\n${turns}`,
    specialTokens: tokenizer.specialTokens,
    clock: () => new Date(2024, 6, 6, 15, 4, 5),
  });
  const tools = [{ type: 'function', function: { name: 'weather' } }];
  const lines = chats(600).map((line, i) => (i % 2 === 0 ? line : JSON.stringify({ ...JSON.parse(line), tools })));
  const here = listed(await prepare({ tokenizer, template }, lines, 0, { sequence_len: 1024 }));
  expect(tokenizer.decode(here.examples[0].inputIds)).toMatch(/^15:04:05 06 07 2024\n<\|im_start\|>/);
  expect(tokenizer.decode(here.examples[1].inputIds)).toContain('weather');
  expect(listed(await prepare({ tokenizer, template }, lines, 2, { sequence_len: 1024 }))).toEqual(here);
});

test('the row that is named is the first that is wrong, whoever finds it and whatever is wrong with it', async () => {
  const setting = settingOf('byte-level', 'chatml');
  const good = chats(900);
  const long = JSON.stringify({
    messages: [
      { role: 'user', content: 'x'.repeat(900) },
      { role: 'assistant', content: 'y' },
    ],
  });
  const [noRole, noJson] = ['{"messages": [{"content": "a"}]}', '{"messages": ['];
  for (const [wrong, message] of [
    [{ 300: long, 301: noJson, 20: noRole }, /^d\.jsonl:21: messages\[0\]: a message has no "role"/],
    [{ 300: long, 301: noJson }, /^d\.jsonl:301: the example has \d+ tokens, more than sequence_len 600/],
    [
      { 300: noRole, 301: long, 899: noJson },
      /^d\.jsonl:301: messages\[0\]: a message has no "role"; 2 rows of .* cannot be trained, also d\.jsonl:900/,
    ],
    [{ 700: noJson }, /^d\.jsonl:701:15: not valid JSON/],
  ] as const) {
    const lines = Object.assign([...good], wrong);
    for (const count of [0, 2]) {
      await expect(prepare(setting, lines, count, { sequence_len: 600, excess_length_strategy: 'raise' })).rejects.toThrow(message);
    }
  }
});

test('a preparation that is given up ends with its reason', async () => {
  const setting = settingOf('byte-level', 'chatml');
  const given = new AbortController();
  const lines = chats(3000);
  await withWorkers(2, setting, async (workers) => {
    const prepared = prepareExamples(
      fileOf(lines),
      setting.tokenizer,
      setting.template,
      { sequence_len: 96 },
      { workers, signal: given.signal },
    );
    given.abort(new Error('enough'));
    await expect(prepared).rejects.toThrow('enough');
  });
});

test('each golden tokenizer is tried', () => {
  expect(Object.keys(golden.special_tokens).sort()).toEqual(['byte-level', 'byte-level-bos', 'byte-level-nfc', 'gemma', 'llama2']);
});
