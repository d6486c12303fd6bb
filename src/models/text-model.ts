import { ChatTemplate } from '../data/chat-template.js';
import { clockText, type PromptCodec, type RunContract } from '../data/contract.js';
import { Tokenizer, type TokenizerFiles } from '../data/tokenizer.js';
import type { ModelTexts } from '../io/model-source.js';
import type { CausalLM } from '../nn/model.js';
import { textConfigOf } from '../util/text-config.js';

/** What turns text into token ids and back, and knows how prompts are framed and answers end. */
export interface TextCodec extends PromptCodec {
  /** The files that it was made of, with the template where that is another than theirs. */
  files: TokenizerFiles;
  /** The source of `template`, and of the one that holds where a conversation has tools. */
  jinja?: string;
  toolUse?: string;
  /** What `strftime_now` shows in the template (`RunContract.clock`). */
  clock: string;
}

/** A model that reads and writes text. */
export interface TextModel extends TextCodec {
  model: CausalLM;
}

/** What stands in for the texts of a model’s own folder. */
export interface CodecOptions {
  /** Replaces the model's template. */
  jinja?: string;
  /**
   * Replaces the contract that the model itself brings, if it is a run's result: that of an adapter, or null for a training that begins.
   */
  contract?: RunContract | null;
  /** What `strftime_now` shows; default: the contract's clock, or now. */
  clock?: string;
  /** Files that lie beside an adapter, which stand in for the model's own. */
  files?: Partial<TokenizerFiles>;
}

/** The tokenizer and chat template of a model. One clock serves all renderings, so that a run does not see two dates. */
export function openTextCodec(
  source: ModelTexts,
  { jinja, contract = source.contract ?? null, clock, files }: CodecOptions = {},
): TextCodec {
  const chosen = filesOf(source, files);
  const { vocab_size: rows } = textConfigOf(source.config);
  const tokenizer = new Tokenizer(chosen, { embeddingRows: typeof rows === 'number' ? rows : undefined });
  const text = jinja ?? contract?.chat_template ?? tokenizer.chatTemplate;
  const time = clock ?? contract?.clock ?? clockText(new Date());
  // The template for tools belongs to the one that it stands beside.
  const own = text === tokenizer.chatTemplate;
  const toolUse = own ? tokenizer.toolUseTemplate : text === contract?.chat_template ? contract?.tool_use_template : undefined;
  const { specialTokens } = tokenizer;
  const template = text === undefined ? undefined : new ChatTemplate(text, { toolUse, specialTokens, clock: () => new Date(time) });
  return {
    tokenizer,
    template,
    files: own ? chosen : { ...chosen, chatTemplate: text, toolUseTemplate: toolUse },
    jinja: text,
    toolUse,
    clock: time,
    contract: contract ?? undefined,
    generationConfig: source.generationConfig,
  };
}

/** The tokenizer's files, each from beside the adapter where it is there, and else the model's. */
function filesOf(
  { tokenizer: base }: ModelTexts,
  { tokenizerJson, tokenizerConfig, chatTemplate, toolUseTemplate }: Partial<TokenizerFiles> = {},
): TokenizerFiles {
  // A template in the adapter's tokenizer_config.json is newer than the model's chat_template.jinja.
  const templates = chatTemplate === undefined && tokenizerConfig?.chat_template === undefined ? base : { chatTemplate, toolUseTemplate };
  return {
    tokenizerJson: tokenizerJson ?? base.tokenizerJson,
    tokenizerConfig: tokenizerConfig ?? base.tokenizerConfig,
    chatTemplate: templates.chatTemplate,
    toolUseTemplate: templates.toolUseTemplate,
  };
}
