import { readFileSync } from 'node:fs';
import { ChatTemplate, type Message } from '../../src/data/chat-template.js';
import { Tokenizer } from '../../src/data/tokenizer.js';
import type { JsonObject, JsonValue } from '../../src/util/json.js';

/** What tools/golden/chat_templates.py writes. */
interface Golden {
  special_tokens: Record<string, JsonObject>;
  cases: {
    template: string;
    tokenizer: string;
    messages: Message[];
    tools: JsonValue;
    text: string;
    prompt: string;
    ids: number[];
    mask: number[];
  }[];
  encodings: { tokenizer: string; text: string; ids: number[]; special: number[]; decoded: string; skipped: string }[];
}

const read = (name: string) => readFileSync(new URL(`../golden/templates/${name}`, import.meta.url), 'utf8');

export const golden: Golden = JSON.parse(read('golden.json'));

/** A tokenizer of the golden files: byte-level, byte-level-nfc, byte-level-bos, llama2, gemma. */
export function goldenTokenizer(kind: string): Tokenizer {
  return new Tokenizer({ tokenizerJson: JSON.parse(read(`${kind}.tokenizer.json`)), tokenizerConfig: golden.special_tokens[kind] });
}

export function templateSource(name: string): string {
  return read(`${name}.jinja`);
}

/** As the generator's clock. */
export const clock = () => new Date(2024, 6, 6, 15, 4, 5);

export function chatTemplate(source: string, tokenizer: Tokenizer): ChatTemplate {
  return new ChatTemplate(source, { specialTokens: tokenizer.specialTokens, clock });
}

export const chatml = goldenTokenizer('byte-level');
export const chatmlTemplate = chatTemplate(templateSource('chatml'), chatml);
