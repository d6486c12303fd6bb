import { chatml, qwen3, qwen25 } from './chatml.js';
import { mistralTekken, mistralV1, mistralV3 } from './mistral.js';
import { alpaca, deepseekV2, gemma, gemma3, llama3, phi3, phi35 } from './plain.js';

/** Chat templates by Axolotl's names, which render as Axolotl's do (https://docs.axolotl.ai/docs/config-reference.html). */
export const namedTemplates: Readonly<Record<string, string>> = {
  alpaca,
  chatml,
  deepseek_v2: deepseekV2,
  gemma,
  gemma3,
  llama3,
  mistral_v1: mistralV1,
  mistral_v2v3: mistralV3,
  mistral_v3_tekken: mistralTekken,
  phi_3: phi3,
  phi_35: phi35,
  qwen_25: qwen25,
  qwen3,
};

/** Before a name: that template where the model has none of its own. */
export const fallbackPrefix = 'tokenizer_default_fallback_';

/** Whether `chat_template` of a recipe may be this. */
export function isTemplateChoice(choice: string): boolean {
  const name = choice.startsWith(fallbackPrefix) ? choice.slice(fallbackPrefix.length) : choice;
  return Object.hasOwn(namedTemplates, name) || ['tokenizer_default', 'jinja'].includes(choice);
}
