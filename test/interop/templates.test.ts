import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { ChatTemplate, type Message, type Rendering } from '../../src/data/chat-template.js';
import { findTurn } from '../../src/data/turns.js';
import { namedTemplates } from '../../src/models/templates/index.js';
import { LowrankError } from '../../src/util/errors.js';
import { type JsonValue, parseExactJson } from '../../src/util/json.js';
import { peersFolder, temporaryFolder } from './peers.js';

/** What tools/golden/public_templates.py writes. */
interface Public {
  special: Record<string, string>;
  conversations: Record<string, { messages: Message[]; tools?: JsonValue }>;
  templates: { name: string; source: string; cases: Case[] }[];
}
interface Case {
  conversation: string;
  prompt: string | null;
  /** Absent where the template refuses the conversation. */
  text?: string;
  /** In code points. */
  generated?: [number, number][];
  error?: string;
}

const folder = temporaryFolder();
afterAll(folder.remove);
const out = join(folder.path, 'templates.json');
execFileSync(`${peersFolder}/venv/bin/python`, ['tools/golden/public_templates.py', `${peersFolder}/templates`, out], {
  maxBuffer: 1 << 26,
});
const { special, conversations, templates } = parseExactJson(readFileSync(out, 'utf8'), out) as unknown as Public;

const clock = () => new Date(2024, 6, 6, 15, 4, 5);
const units = (text: string, points: number) => [...text].slice(0, points).join('').length;

/** Words that stand for one message each: whose text is where is seen in them, whatever code finds spans. */
const marksOf = (text: string) => text.match(/(User|Answer|Result|System|Reason|Call)\d/g) ?? [];

function render(
  template: ChatTemplate,
  messages: readonly Message[],
  tools: JsonValue | undefined,
  addGenerationPrompt: boolean,
): Rendering | undefined {
  try {
    return template.render(messages, { tools, addGenerationPrompt });
  } catch (error) {
    expect(error).toBeInstanceOf(LowrankError);
    return undefined;
  }
}

test('the packages hold the templates of many families', () => {
  const families =
    'aya bai.?chuan chatml code-?llama cohere command deepseek ernie exaone falcon gemma glm gpt-?oss idefics internlm internvl jamba ' +
    'kimi lfm ling llama llava minicpm minimax mistral mixtral moonlight nemotron orion phi ' +
    'pixtral qwen qwq seed skywork smolvlm telechat yi';
  const present = families.split(' ').filter((family) => templates.some(({ name }) => new RegExp(family, 'i').test(name.split(' ')[1])));
  expect(templates.length).toBeGreaterThan(150);
  expect(present.length).toBeGreaterThanOrEqual(30);
});

describe.each(templates)('$name', ({ source, cases }) => {
  const template = new ChatTemplate(source, { specialTokens: special, clock });

  test.each(cases)(
    '$conversation: text, prompt and generated spans are those of transformers',
    ({ conversation, text, prompt, generated = [] }) => {
      const { messages, tools } = conversations[conversation];
      const ours = render(template, messages, tools, false);
      expect(ours?.text).toBe(text);
      expect(render(template, messages.slice(0, -1), tools, true)?.text ?? null).toBe(prompt);
      if (ours && text !== undefined) expect(ours.generated).toEqual(generated.map((span) => span.map((point) => units(text, point))));
    },
  );

  test('a turn of the assistant holds all that the template wrote of it, and nothing of others', () => {
    for (const { conversation, text } of cases) {
      if (text === undefined) continue;
      const { messages, tools } = conversations[conversation];
      messages.forEach((message, i) => {
        if (message.role !== 'assistant') return;
        const span = spanOf(template, text, messages, i, tools);
        if (!span) return;
        const mine = [...new Set(marksOf(JSON.stringify(message)))].filter((mark) => text.includes(mark));
        expect([conversation, i, ...new Set(marksOf(text.slice(...span)))].sort()).toEqual([conversation, i, ...mine].sort());
      });
    }
  });
});

const unlocated: string[] = [];

function spanOf(template: ChatTemplate, text: string, messages: readonly Message[], index: number, tools: JsonValue | undefined) {
  try {
    return findTurn(template, text, messages, index, { tools }).span;
  } catch (error) {
    expect((error as Error).message).toMatch(/cannot be located|nothing of it is in the text/);
    unlocated.push(`${index}`);
    return undefined;
  }
}

test('nearly all turns are located', () => {
  const turns = templates.flatMap(({ cases }) =>
    cases.filter(({ text }) => text !== undefined).map(({ conversation }) => conversations[conversation].messages),
  );
  const all = turns.flat().filter(({ role }) => role === 'assistant').length;
  expect(all).toBeGreaterThan(2500);
  // Seven in parts, around a tool's result (Gemma 4); four behind tools that move (Mistral); the others are not in the text.
  expect(unlocated.length).toBeLessThanOrEqual(34);
});

/** Axolotl's template of the name. */
const axolotls = (name: string) => templates.find((template) => template.name === `axolotl ${name}`)!;

test.each(Object.keys(namedTemplates))('%s renders as Axolotl’s', (name) => {
  const template = new ChatTemplate(namedTemplates[name], { specialTokens: special, clock });
  const differing = axolotls(name).cases.filter(({ conversation, text, prompt }) => {
    const { messages, tools } = conversations[conversation];
    const whole = render(template, messages, tools, false)?.text;
    return whole !== text || (render(template, messages.slice(0, -1), tools, true)?.text ?? null) !== prompt;
  });
  expect(differing.map(({ conversation }) => conversation)).toEqual([]);
});
