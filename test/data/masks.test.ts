import { describe, expect, test } from 'vitest';
import type { Message } from '../../src/data/chat-template.js';
import type { DatasetOptions } from '../../src/data/formats/index.js';
import { prepareExamples } from '../../src/data/prepare.js';
import { previewSequence } from '../../src/data/preview.js';
import { chatml, chatTemplate } from './golden.js';

/** The text of a conversation with what is supervised in double brackets. */
async function preview(source: string, messages: Message[], dataset: DatasetOptions = {}): Promise<string> {
  const template = chatTemplate(source, chatml);
  const { examples } = await prepareExamples([{ value: { messages }, place: 'row' }], chatml, template, { sequence_len: 512, dataset });
  return previewSequence(chatml, examples[0].sequences[0], (text, on) => (on ? `[[${text}]]` : text));
}

const user = (content: string): Message => ({ role: 'user', content });
const assistant = (content: string, more: Omit<Message, 'role'> = {}): Message => ({ role: 'assistant', content, ...more });
const call = { tool_calls: [{ type: 'function', function: { name: 'weather', arguments: { city: 'Ulm' } } }] };

/** Chatml with a line's end before each turn's end; thinking stays in the last turn only, as in Qwen3. */
const thinking =
  `{%- for m in messages %}\n{{- '<|im_start|>' + m.role + '\\n' }}` +
  `\n{%- if m.role == 'assistant' and m.reasoning_content and loop.last %}` +
  `{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}\n{{- m.content or '' }}` +
  `\n{%- for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + '</call>' }}{% endfor %}` +
  `\n{{- '\\n<|im_end|>\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}` +
  `{% endif %}`;

describe('the line’s end before a turn’s end is supervised in every turn', () => {
  test('of a template that renders earlier turns otherwise than last ones', async () => {
    const messages = [user('U1'), assistant('A1', { reasoning_content: 'R1' }), user('U2'), assistant('A2', { reasoning_content: 'R2' })];
    expect(await preview(thinking, messages)).toBe(
      '<|im_start|>user\nU1\n<|im_end|>\n<|im_start|>assistant\n[[A1\n<|im_end|>]]\n' +
        '<|im_start|>user\nU2\n<|im_end|>\n<|im_start|>assistant\n[[<think>R2</think>A2\n<|im_end|>]]\n',
    );
  });

  test('of generation tags around the content alone', async () => {
    const source =
      `{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}` +
      `{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\\n<|im_end|>\\n' }}{% endfor %}`;
    expect(await preview(source, [user('U1'), assistant('A1'), user('U2'), assistant('A2')])).toBe(
      '<|im_start|>user\nU1\n<|im_end|>\n<|im_start|>assistant\n[[A1\n<|im_end|>]]\n' +
        '<|im_start|>user\nU2\n<|im_end|>\n<|im_start|>assistant\n[[A2\n<|im_end|>]]\n',
    );
  });
});

test('a tool call of an earlier turn that is rendered otherwise is supervised whole, and what the tool answered is not', async () => {
  const messages = [
    user('U1'),
    assistant('A1', { reasoning_content: 'R1', ...call }),
    { role: 'tool', content: 'T1' },
    assistant('A2'),
    user('U2'),
    assistant('A3'),
  ];
  expect(await preview(thinking, messages)).toBe(
    '<|im_start|>user\nU1\n<|im_end|>\n<|im_start|>assistant\n[[A1<call>weather</call>\n<|im_end|>]]\n<|im_start|>tool\nT1\n<|im_end|>\n' +
      '<|im_start|>assistant\n[[A2\n<|im_end|>]]\n<|im_start|>user\nU2\n<|im_end|>\n<|im_start|>assistant\n[[A3\n<|im_end|>]]\n',
  );
});

describe('a turn that only calls', () => {
  const calling = (before: string, after: string) =>
    `${before}{% for m in messages %}{{ m.role + ':\\n' }}{% if m.tool_calls %}{{ '<call>' + m.tool_calls[0].function.name }}` +
    `{% else %}{{ m.content or '' }}{% endif %}{{ '<|im_end|>' }}{% endfor %}${after}`;
  const messages = [user('U1'), assistant('', call), { role: 'tool', content: 'T1' }, assistant('A2')];

  test('is located though the template writes otherwise what comes before, as DeepSeek’s does of tools', async () => {
    const source = calling(
      "{% if messages[-1].role == 'user' %}tools{% endif %}",
      "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}",
    );
    expect(await preview(source, messages)).toBe(
      'user:\nU1<|im_end|>assistant:\n[[<call>weather<|im_end|>]]tool:\nT1<|im_end|>assistant:\n[[A2<|im_end|>]]',
    );
  });

  test('and that is not in the text, or around a result, is refused for what it is', async () => {
    const silent = "{% for m in messages if not m.tool_calls %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}";
    await expect(preview(silent, messages)).rejects.toThrow(/turn 2 \(assistant\) so that nothing of it is in the text\n.*use a template/);
    const around =
      "{% for m in messages if m.role != 'tool' %}{{ m.role + ': ' }}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}" +
      "{% for r in messages if r.role == 'tool' %}{{ r.content }}{% endfor %}{% endif %}{{ m.content }}" +
      "{{ '<|im_end|>' }}{% endfor %}";
    const both = [user('U1'), assistant('A1', call), { role: 'tool', content: 'T1' }, assistant('A2')];
    await expect(preview(around, both)).rejects.toThrow(/turn 2 \(assistant\) in parts, with what later .*\n.*a message of its own/);
  });
});

test('special tokens around a tool call do not end the turn that the eos token ends', async () => {
  const source =
    `{% for m in messages %}{{ m.role + ': ' + (m.content or '') }}{% for c in m.tool_calls or [] %}` +
    `{{ '<start_of_turn>' + c.function.name + '<end_of_turn>' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}` +
    `{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}`;
  const messages = [user('U1'), assistant('', call), { role: 'tool', content: 'T1' }, assistant('A2')];
  expect(await preview(source, messages)).toBe(
    'user: U1<|im_end|>\nassistant: [[<start_of_turn>weather<end_of_turn><|im_end|>]]\ntool: T1<|im_end|>\nassistant: [[A2<|im_end|>]]\n',
  );
});

describe('templates that close no turn', () => {
  const open =
    `{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '\\n' }}{% endfor %}` +
    `{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;
  const tagged = open.replace(
    '+ m.content +',
    "}}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{",
  );
  const messages = [user('U1'), assistant('A1'), user('U2')];

  test.each([
    ['whose turns are found', open],
    ['whose turns are tagged', tagged],
  ])('%s: the beginning of the next turn is no end', async (_, source) => {
    await expect(preview(source, messages)).rejects.toThrow(/trained turn 1 ends without a special token of its own[\s\S]*eot_tokens/);
  });

  test('that write an end behind the last turn only', async () => {
    const source = open.replace('{% endfor %}', "{% if loop.last %}{{ '<|im_end|>' }}{% endif %}{% endfor %}");
    await expect(preview(source, [...messages, assistant('A2')])).rejects.toThrow(/trained turn 1 ends without/);
  });

  test('eot_tokens names what begins the next turn as the end, and closes the last turn', async () => {
    const dataset = { eot_tokens: ['<|im_start|>'] };
    expect(await preview(tagged, [...messages, assistant('A2')], dataset)).toBe(
      '<|im_start|>user\nU1\n<|im_start|>assistant\n[[A1\n<|im_start|>]]user\nU2\n<|im_start|>assistant\n[[A2\n<|im_start|>]]',
    );
  });
});

test('a generation block in a macro is refused, since its place is not known', async () => {
  const source =
    `{% macro answer(m) %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endmacro %}` +
    `{% for m in messages %}{{ answer(m) }}{% endfor %}`;
  await expect(preview(source, [user('U1'), assistant('A1')])).rejects.toThrow(/generation block stands in a macro/);
});

/** A template that puts what tools answered into the turn that called them, before its content, as Gemma 4 does. */
const inside =
  `{% for m in messages if m.role != 'tool' %}{{ '<|im_start|>' + m.role + '\\n' }}` +
  `{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + '</call>' }}{% endfor %}` +
  `\n{%- if m.tool_calls and not loop.last %}{% for t in messages if t.role == 'tool' %}` +
  `{{ '<start_of_turn>' + t.content + '<end_of_turn>' }}{% endfor %}{% endif %}\n{{- m.content or '' }}` +
  `{% if not m.tool_calls or loop.last %}{{ '<|im_end|>' }}{% endif %}{% endfor %}` +
  `{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;

describe('what a tool answered inside of the turn that called it', () => {
  const conversation = (content: string) => [user('U1'), assistant(content, call), { role: 'tool', content: 'T1' }, assistant('A2')];

  test('is not supervised; eot_tokens names what ends the call', async () => {
    const text = await preview(inside, conversation(''), { eot_tokens: ['<start_of_turn>'] });
    expect(text).toBe(
      '<|im_start|>user\nU1<|im_end|><|im_start|>assistant\n[[<call>weather</call><start_of_turn>]]T1<end_of_turn>' +
        '<|im_start|>assistant\n[[A2<|im_end|>]]',
    );
  });

  test('makes a turn that goes on behind it impossible to locate', async () => {
    await expect(preview(inside, conversation('A1'))).rejects.toThrow(
      /renders turn 2 \(assistant\) in parts, .* so that its text cannot be located/,
    );
  });
});

test('a generation prompt that goes on otherwise than the turn: all that the turn writes is supervised', async () => {
  const source =
    `${thinking.replace(' and loop.last', '').replace("{{ '<think>' +", "{{ '<think>\\n' +")}{% if add_generation_prompt %}` +
    `{{ '<think>\\n\\n</think>\\n' }}{% endif %}`;
  expect(await preview(source, [user('U1'), assistant('A1', { reasoning_content: 'R1' })])).toBe(
    '<|im_start|>user\nU1\n<|im_end|>\n<|im_start|>assistant\n<think>\n[[R1</think>A1\n<|im_end|>]]\n',
  );
});
