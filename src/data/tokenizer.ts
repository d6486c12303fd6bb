import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { LowrankError, messageOf } from '../util/errors.js';
import { isObject, type JsonObject, type JsonValue } from '../util/json.js';
import { LinearRegExp } from '../util/linear-regexp.js';
import { isKnownSplit } from './split-patterns.js';
import { byteCharacters, fallbackTokens, tokenByteLength } from './token-bytes.js';
import { checkTokenizer, reload } from './tokenizer-checks.js';

/** The contents of a checkpoint's tokenizer files, as they are on the Hugging Face hub. */
export interface TokenizerFiles {
  /** tokenizer.json */
  tokenizerJson: JsonObject;
  /** tokenizer_config.json */
  tokenizerConfig?: JsonObject;
  /** chat_template.jinja; without it, `chat_template` of tokenizer_config.json holds. */
  chatTemplate?: string;
  /** additional_chat_templates/tool_use.jinja */
  toolUseTemplate?: string;
}

/** What is used of the engine, whose own declarations TypeScript cannot resolve under `NodeNext`. */
interface Engine {
  readonly model: { readonly unk_token_id?: number };
  readonly normalizer: object | null;
  readonly pre_tokenizer: object | null;
  readonly decoder: object | null;
  readonly post_processor: { post_process(tokens: string[], pair: null, addSpecialTokens: boolean): { tokens: string[] } } | null;
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[]; tokens: string[] };
  decode(ids: number[], options: { clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  get_vocab(): Map<string, number>;
  get_added_tokens_decoder(): Map<number, { special: boolean }>;
}

const specialNames = ['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token'] as const;

/**
 * Text to token ids and back, equal to the fast tokenizers of `transformers`. Decoding never "cleans up" spaces: it is the
 * inverse of encoding.
 */
export class Tokenizer {
  /** What it was made of. */
  readonly files: TokenizerFiles;
  /** Largest token id + 1, added tokens included. */
  readonly vocabSize: number;
  /** Rows of the model's embedding: ids from there on cannot be used, and ids below it that the tokenizer lacks stand for nothing. */
  readonly embeddingRows: number;
  readonly bosTokenId?: number;
  readonly eosTokenId?: number;
  /**
   * Only where it differs from `eosTokenId`: a padding token that doubles as the end of text is no padding token. Nothing here
   * pads, and labels are never masked by id.
   */
  readonly padTokenId?: number;
  /** `bos_token`, `eos_token`, … → text: the variables that a chat template sees. */
  readonly specialTokens: Readonly<Record<string, string>>;
  readonly chatTemplate?: string;
  /** The template that holds where a conversation has tools, if it is another. */
  readonly toolUseTemplate?: string;
  /** What the tokenizer's post-processor puts before and after a text: usually [bos] and []. */
  readonly prefixIds: readonly number[];
  readonly suffixIds: readonly number[];
  private readonly engine: Engine;
  private readonly specialIds = new Set<number>();
  private readonly addedIds = new Set<number>();
  private readonly byteLevel: boolean;
  private readonly unknownId?: number;
  /** Unigram with byte_fallback: the engine gives `unk` where the original gives bytes. */
  private readonly lacksByteFallback: boolean;
  /** Characters seen so far, and whether the vocabulary cannot write them; absent where it has all bytes. */
  private readonly unwritable?: Map<string, boolean>;

  /**
   * `embeddingRows` (default: vocabSize) are the model's. Throws a LowrankError that names tokenizer.json where the files do not describe a
   * tokenizer.
   */
  constructor(files: TokenizerFiles, { embeddingRows }: { embeddingRows?: number } = {}) {
    this.files = files;
    const { tokenizerJson, tokenizerConfig = {}, chatTemplate, toolUseTemplate } = files;
    const model = checkTokenizer(tokenizerJson);
    this.specialTokens = specialTokensOf(tokenizerConfig);
    this.engine = usable(() => {
      const defaults = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
      // The engine reads special tokens as strings; files of older versions hold objects.
      const engine: Engine = new HuggingFaceTokenizer({ ...defaults, ...tokenizerJson }, { ...tokenizerConfig, ...this.specialTokens });
      boundPatterns([engine.normalizer, engine.pre_tokenizer, engine.decoder]);
      return engine;
    });
    const added = this.engine.get_added_tokens_decoder();
    for (const [id, token] of added) {
      this.addedIds.add(id);
      if (token.special) this.specialIds.add(id);
    }
    this.vocabSize = largestId(this.engine) + 1;
    this.embeddingRows = embeddingRows ?? this.vocabSize;
    for (const text of Object.values(this.specialTokens)) {
      const id = this.engine.token_to_id(text);
      if (id !== undefined) this.specialIds.add(id);
    }
    this.bosTokenId = this.idOfSpecial('bos_token');
    this.eosTokenId = this.idOfSpecial('eos_token');
    const pad = this.idOfSpecial('pad_token');
    this.padTokenId = pad === this.eosTokenId ? undefined : pad;
    this.unknownId = this.engine.model.unk_token_id;
    this.lacksByteFallback = model.type === 'Unigram' && model.byte_fallback === true;
    this.byteLevel = JSON.stringify(tokenizerJson.decoder ?? null).includes('"ByteLevel"');
    if (!this.hasAllBytes(model)) this.unwritable = new Map();
    // Files replace what tokenizer_config.json says, as in transformers.
    const templates = chatTemplate === undefined && toolUseTemplate === undefined ? tokenizerConfig.chat_template : chatTemplate;
    this.chatTemplate = templateOf(templates, 'default');
    this.toolUseTemplate = toolUseTemplate ?? templateOf(templates, 'tool_use');
    [this.prefixIds, this.suffixIds] = usable(() => this.surroundings());
  }

  /**
   * Token ids of a text. Special tokens that are written out in the text are recognised; `addSpecialTokens` (default false)
   * also adds those of the post-processor. Throws where a character cannot be encoded as the original tokenizer would.
   */
  encode(text: string, { addSpecialTokens = false }: { addSpecialTokens?: boolean } = {}): number[] {
    const { ids, tokens } = usable(() => this.engine.encode(text, { add_special_tokens: addSpecialTokens }));
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] === undefined) throw unencodable(tokens[i], 'the vocabulary has no token for it and no unknown token');
      if (this.lacksByteFallback && ids[i] === this.unknownId) {
        throw unencodable(tokens[i], 'Unigram with byte_fallback is supported only for text that needs no bytes');
      }
    }
    return ids as number[];
  }

  /**
   * The characters of a text that are not in its tokens: the vocabulary lacks them, and tokenizers then leave them out, or put an unknown
   * token there, without a word. Costs nothing where a vocabulary has all bytes.
   */
  lost(text: string, ids: readonly number[]): string[] {
    const { unwritable } = this;
    if (!unwritable) return [];
    const suspects = new Set<string>();
    for (const character of text) {
      let lacking = unwritable.get(character);
      if (lacking === undefined) {
        lacking = !this.writes(character);
        unwritable.set(character, lacking);
      }
      if (lacking) suspects.add(character);
    }
    if (suspects.size === 0) return [];
    // A vocabulary may have a character within longer tokens alone.
    const kept = this.decode(ids);
    return [...suspects].filter((character) => !kept.includes(character));
  }

  private writes(character: string): boolean {
    try {
      const ids = this.encode(character);
      // Others than byte-level vocabularies treat white space in ways of their own.
      if (ids.length === 0) return !this.byteLevel && character.trim() === '';
      return !ids.includes(this.unknownId ?? -1) && (character === '\ufffd' || !this.decode(ids).includes('\ufffd'));
    } catch {
      return true;
    }
  }

  private hasAllBytes({ type, byte_fallback }: JsonObject): boolean {
    if (type !== 'BPE' || (!this.byteLevel && byte_fallback !== true)) return false;
    return (this.byteLevel ? byteCharacters() : fallbackTokens()).every((token) => this.engine.token_to_id(token) !== undefined);
  }

  /**
   * The text of token ids; `skipSpecialTokens` (default false) leaves out special tokens. Ids that only the model's embedding has, which is
   * often padded, are no text; others that are no token's throw.
   */
  decode(ids: ArrayLike<number>, { skipSpecialTokens = false }: { skipSpecialTokens?: boolean } = {}): string {
    const kept = Array.from(ids).filter((id) => {
      if (this.engine.id_to_token(id) !== undefined) return !(skipSpecialTokens && this.specialIds.has(id));
      if (Number.isInteger(id) && id >= 0 && id < this.embeddingRows) return false;
      throw new LowrankError(`token id ${id} is not in the vocabulary`, { expected: `an id below ${this.embeddingRows}` });
    });
    if (kept.length === 0) return '';
    return usable(() => this.engine.decode(kept, { clean_up_tokenization_spaces: false }));
  }

  /** A decoder for tokens that arrive one by one. */
  createDecoder(options: { skipSpecialTokens?: boolean } = {}): StreamDecoder {
    return new StreamDecoder(this, options.skipSpecialTokens ?? true);
  }

  /** The id of a token of the vocabulary, or undefined. */
  tokenToId(token: string): number | undefined {
    return this.engine.token_to_id(token);
  }

  /** A token as the vocabulary writes it, or undefined. */
  idToToken(id: number): string | undefined {
    return this.engine.id_to_token(id);
  }

  /** Special tokens: those marked so in tokenizer.json and those that tokenizer_config.json names. */
  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  /** How many UTF-8 bytes of text a token stands for. */
  byteLength(id: number): number {
    return tokenByteLength(this.engine.id_to_token(id) ?? '', this.addedIds.has(id), this.byteLevel);
  }

  /** What the post-processor puts around a text, seen on a token that it cannot know. */
  private surroundings(): [number[], number[]] {
    const probe = '\0text';
    const tokens = this.engine.post_processor?.post_process([probe], null, true).tokens ?? [probe];
    const ids = tokens.map((token) => (token === probe ? -1 : this.engine.token_to_id(token)));
    if (ids.includes(undefined)) {
      throw new LowrankError(`the post-processor adds a token that is not in the vocabulary: ${tokens}`, {
        place: 'tokenizer.json',
        mend: reload,
      });
    }
    const at = ids.indexOf(-1);
    return [ids.slice(0, at) as number[], ids.slice(at + 1) as number[]];
  }

  private idOfSpecial(name: (typeof specialNames)[number]): number | undefined {
    const text = this.specialTokens[name];
    return text === undefined ? undefined : this.engine.token_to_id(text);
  }
}

/** Holds text back until its UTF-8 is complete: the parts that `push` and `end` return join to what `decode` gives for all tokens. */
export class StreamDecoder {
  private readonly tokenizer: Tokenizer;
  private readonly skipSpecialTokens: boolean;
  /** Tokens before `shown` have been returned; those before them are context, on which spaces depend. */
  private window: number[] = [];
  private shown = 0;

  constructor(tokenizer: Tokenizer, skipSpecialTokens: boolean) {
    this.tokenizer = tokenizer;
    this.skipSpecialTokens = skipSpecialTokens;
  }

  /** The text that one more token completes, often one word, sometimes ''. */
  push(id: number): string {
    if (this.skipSpecialTokens && this.tokenizer.isSpecial(id)) return '';
    this.window.push(id);
    const text = this.pending();
    // A cut character decodes to U+FFFD at the end.
    if (text.endsWith('\ufffd')) return '';
    this.window = this.window.slice(this.shown);
    this.shown = this.window.length;
    return text;
  }

  /** What is left when no more tokens come. */
  end(): string {
    const text = this.pending();
    this.window = [];
    this.shown = 0;
    return text;
  }

  private pending(): string {
    const before = this.tokenizer.decode(this.window.slice(0, this.shown));
    return this.tokenizer.decode(this.window).slice(before.length);
  }
}

/** A part of the engine that may hold an expression of the file's, or other parts. */
type Part = { pattern?: unknown; config?: { pattern?: { Regex?: string } } } & Record<string, unknown>;

/** Puts linear expressions in the place of the file's own, but for those that are known. */
function boundPatterns(parts: unknown[]): void {
  for (const part of parts as (Part | null)[]) {
    if (!part) continue;
    const written = part.config?.pattern?.Regex;
    if (part.pattern instanceof RegExp && written !== undefined && !isKnownSplit(written)) part.pattern = new LinearRegExp(part.pattern);
    for (const inner of Object.values(part)) if (Array.isArray(inner)) boundPatterns(inner.filter((one) => typeof one === 'function'));
  }
}

/** What the engine does with a file that it does not check: whatever it throws is the file's fault. */
function usable<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    // What the engine says where it stumbles is about its own code.
    const reason =
      error instanceof TypeError || error instanceof RangeError ? 'a part of it has another form than it should' : messageOf(error);
    throw new LowrankError(`not a usable tokenizer: ${reason}`, { place: 'tokenizer.json', cause: error, mend: reload });
  }
}

function unencodable(token: string, reason: string): LowrankError {
  return new LowrankError(`cannot encode ${JSON.stringify(token)}: ${reason}`, {
    place: 'the tokenizer',
    mend: 'remove the character from the data, or use a base model whose tokenizer is a BPE',
  });
}

function largestId(engine: Engine): number {
  let largest = -1;
  for (const id of engine.get_vocab().values()) if (id > largest) largest = id;
  return largest;
}

function specialTokensOf(config: JsonObject): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const name of specialNames) {
    const value = config[name];
    const text = isObject(value) ? value.content : value;
    if (typeof text === 'string') tokens[name] = text;
  }
  return tokens;
}

/** `chat_template` is a string, or a list of named ones of which "default" is for plain conversations. */
function templateOf(value: JsonValue | undefined, name: 'default' | 'tool_use'): string | undefined {
  if (typeof value === 'string') return name === 'default' ? value : undefined;
  if (!Array.isArray(value)) return undefined;
  const entry = value.find((item) => isObject(item) && item.name === name);
  return isObject(entry) && typeof entry.template === 'string' ? entry.template : undefined;
}
