import { describe, expect, test } from 'vitest';
import { labelConversation } from '../../src/data/chat.js';
import { chatTemplate, golden, goldenTokenizer, templateSource } from './golden.js';

const cases = golden.cases.map((entry, i) => ({ ...entry, name: `${entry.template} with ${entry.tokenizer}, conversation ${i % 10}` }));
const tokenizers = new Map(Object.keys(golden.special_tokens).map((kind) => [kind, goldenTokenizer(kind)]));

/** Positions whose tokens are supervised. */
const supervised = (labels: number[]) => labels.map((label) => (label === -100 ? 0 : 1));

describe.each(cases)('$name', ({ template: name, tokenizer: kind, messages, tools, text, prompt, ids, mask }) => {
  const tokenizer = tokenizers.get(kind)!;
  const source = templateSource(name);

  test('text and prompt are those of apply_chat_template', () => {
    const template = chatTemplate(source, tokenizer);
    expect(template.render(messages, { tools }).text).toBe(text);
    expect(template.render(messages.slice(0, -1), { tools, addGenerationPrompt: true }).text).toBe(prompt);
  });

  test('token ids and mask are those of apply_chat_template', () => {
    const labelled = labelConversation(tokenizer, chatTemplate(source, tokenizer), { messages, tools, place: 'row' }, {});
    expect(labelled.inputIds).toEqual(ids);
    expect(supervised(labelled.labels)).toEqual(mask);
    expect(labelled.labels.filter((label) => label !== -100)).toEqual(ids.filter((_, t) => mask[t] === 1));
  });

  test('without generation tags the turns are found, and the mask is the same', () => {
    const plain = source.replace(/\{%(-?)\s*(?:end)?generation\s*(-?)%\}/g, '{%$1 if true %}{% endif $2%}');
    const template = chatTemplate(plain, tokenizer);
    expect(template.render(messages, { tools })).toMatchObject({ text, generated: [] });
    const labelled = labelConversation(tokenizer, template, { messages, tools, place: 'row' }, {});
    expect(labelled.inputIds).toEqual(ids);
    // Tags may enclose what follows the terminator; a turn's own text ends with it.
    const after = (t: number) => t > 0 && mask[t - 1] === 1 && tokenizer.isSpecial(ids[t - 1]) && tokenizer.decode([ids[t]]) === '\n';
    expect(supervised(labelled.labels)).toEqual(mask.map((on, t) => (after(t) ? 0 : on)));
  });
});
