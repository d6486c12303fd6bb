import { describe, expect, test } from 'vitest';
import { ChatTemplate, type Message } from '../../src/data/chat-template.js';
import { readRows } from '../../src/data/rows.js';
import { isObject, JsonNumber, type JsonObject, orderedKeys, parseExactJson } from '../../src/util/json.js';

/** The conversation of a row, which is given as its text. */
const messagesOf = (text: string) => (parseExactJson(text, 'row') as JsonObject).messages as Message[];
const render = (source: string, messages: Message[], tools: JsonObject[] | null = null) =>
  new ChatTemplate(source).render(messages, { tools });

describe('numbers and keys of rows', () => {
  const row =
    '{"messages": [{"role": "user", "content": {"id": 2512292042121000001, "f": 20.0, "e": 1e-07, "big": 1E400,' +
    ' "z": -0, "h": 0.5, "9": {"10": 1, "2": 3}}}]}';

  test('reach the template’s text as Python reads them', () => {
    const expected = "{'id': 2512292042121000001, 'f': 20.0, 'e': 1e-07, 'big': inf, 'z': 0, 'h': 0.5, '9': {'10': 1, '2': 3}}";
    expect(render('{{ messages[0].content }}', messagesOf(row)).text).toBe(expected);
    expect(render('{{ messages[0].content | tojson }}', messagesOf(row)).text).toBe(
      expected.replaceAll("'", '"').replace('inf', 'Infinity'),
    );
    expect(render('{{ messages[0].content.id + 1 }} {{ messages[0].content.f is float }}', messagesOf(row)).text).toBe(
      '2512292042121000002 True',
    );
  });

  test('of rows in lines and of rows in an array', async () => {
    const values = await Promise.all([readRows(row, 'd.jsonl'), readRows(`[${row}]`, 'd.json')]);
    for (const [{ value }] of values)
      expect(render('{{ messages[0].content.id }}', value.messages as Message[]).text).toBe('2512292042121000001');
  });

  test('only what a double or an object would change is kept in another way', () => {
    const value = parseExactJson(
      '{"a": [1, 2.5, -3, 1e3, 123456789012345678], "b": {"x": "7: 1.0", "y\\"": {"7": null}}, "b2": true}',
      'x',
    ) as JsonObject;
    expect(JSON.parse(JSON.stringify(value))).toEqual(
      JSON.parse('{"a": [1, 2.5, -3, 1000, 123456789012345680], "b": {"x": "7: 1.0", "y\\"": {"7": null}}, "b2": true}'),
    );
    const numbers = value.a as unknown[];
    expect(numbers.map((number) => number instanceof JsonNumber)).toEqual([false, false, false, true, true]);
    expect(isObject(numbers[3] as JsonNumber)).toBe(false);
    expect(orderedKeys(parseExactJson('{"b": 0, "10": 1, "9": 2, "b": 3}', 'x') as JsonObject)).toEqual(['b', '10', '9']);
  });
});

describe('what a template read of a conversation', () => {
  const messages: Message[] = [
    { role: 'user', content: 'U', name: 'N' },
    { role: 'assistant', content: 'A', reasoning: 'R', weight: 1 },
  ];

  test('its keys, message by message', () => {
    const { readKeys, readTools } = render(
      '{% for m in messages %}{{ m.role }}{% if "name" in m %}{{ m["content"] }}{% endif %}{% endfor %}',
      messages,
    );
    expect(readKeys.map((keys) => [...keys].sort())).toEqual([['content', 'role'], ['role']]);
    expect(readTools).toBe(false);
    expect(render('{% if tools %}{% endif %}', messages).readTools).toBe(true);
  });

  test('all keys of a message that is printed whole', () => {
    expect([...render('{{ messages[0] | tojson }}', messages).readKeys[0]].sort()).toEqual(['content', 'name', 'role']);
  });

  test('reasoning is given under each of its names, and read under any', () => {
    for (const name of ['reasoning_content', 'thinking']) {
      const { text, readKeys } = render(`{{ messages[1].${name} }}`, messages);
      expect(text).toBe('R');
      expect([...readKeys[1]]).toContain('reasoning');
    }
    expect(render('{{ messages[1].thinking }}', [messages[0], { ...messages[1], thinking: 'T', reasoning_content: 'C' }]).text).toBe('T');
  });
});

test('the template named tool_use holds where a conversation has tools, be it an empty list', () => {
  const template = new ChatTemplate('plain', { toolUse: 'TOOLS {{ tools | length }}' });
  const messages = [{ role: 'user', content: 'a' }];
  expect([undefined, null, [], [{ type: 'function' }]].map((tools) => template.render(messages, { tools }).text)).toEqual([
    'plain',
    'plain',
    'TOOLS 0',
    'TOOLS 1',
  ]);
  expect(() => new ChatTemplate('plain', { toolUse: '{% if %}' })).toThrow(/^chat template tool_use: not a readable/);
});

test('characters that are none pass through, between generation blocks too', () => {
  const source = '{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}.{% endfor %}';
  expect(render(source, [{ role: 'assistant', content: 'a\ufdd0b\ufdd1' }])).toMatchObject({
    text: 'a\ufdd0b\ufdd1.',
    generated: [[0, 4]],
  });
});

test('an empty list of tool calls and null are a message of text', () => {
  const source =
    '{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls[0].function }}{% else %}{{ m.content }}{% endif %}' +
    '{{ m.tool_calls is defined }}{% endfor %}';
  expect(
    render(
      source,
      messagesOf(
        '{"messages": [{"role": "assistant", "content": "a", "tool_calls": []},' +
          ' {"role": "assistant", "content": "b", "tool_calls": null}]}',
      ),
    ).text,
  ).toBe('aTruebFalse');
});
