import { ChatTemplate } from '../data/chat-template.js';
import { Tokenizer } from '../data/tokenizer.js';
import type { ModelSource } from '../io/model-source.js';
import type { CausalLM } from '../nn/model.js';

/** What turns text into token ids and back. */
export interface TextCodec {
  tokenizer: Tokenizer;
  /** Absent where the model has none: only plain text can be read and continued. */
  template?: ChatTemplate;
}

/** A model that reads and writes text. */
export interface TextModel extends TextCodec {
  model: CausalLM;
}

/** The tokenizer and chat template of a model; `jinja` replaces the template. */
export function openTextCodec(source: ModelSource, jinja?: string): TextCodec {
  const tokenizer = new Tokenizer(source.tokenizer);
  const text = jinja ?? tokenizer.chatTemplate;
  return { tokenizer, template: text === undefined ? undefined : new ChatTemplate(text, { specialTokens: tokenizer.specialTokens }) };
}
