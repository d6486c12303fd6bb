import { splitPatterns } from '../data/split-patterns.js';
import type { JsonObject, JsonValue } from '../util/json.js';
import type { GgufMetadata } from './gguf-metadata.js';
import type { ModelSource } from './model-source.js';

/** Values of `tokenizer.ggml.token_type`. */
const controlToken = 3;
const userToken = 4;

/** What is read of `tokenizer.ggml.*`, checked. */
interface Vocabulary {
  tokens: string[];
  types: number[];
  /** Token ids by role: bos, eos, unknown, padding. */
  ids: Record<string, number | undefined>;
  /** Text → id; of equal texts the last, as everywhere. */
  vocab: Map<string, number>;
}

/** tokenizer.json, tokenizer_config.json and the chat template, rebuilt from a GGUF file's metadata. */
export function ggufTokenizer(metadata: GgufMetadata): ModelSource['tokenizer'] {
  const vocabulary = readVocabulary(metadata);
  const model = metadata.required('tokenizer.ggml.model', metadata.string('tokenizer.ggml.model'));
  let parts: JsonObject;
  if (model === 'gpt2') parts = byteLevel(metadata, vocabulary);
  else if (model === 'llama') parts = sentencePiece(metadata, vocabulary);
  else throw metadata.error('tokenizer.ggml.model', `is "${model}"`, 'gpt2 or llama', 'use the tokenizer.json of this model');
  const { tokens, ids } = vocabulary;
  const text = (id: number | undefined) => (id === undefined ? undefined : tokens[id]);
  const names = { bos_token: text(ids.bos), eos_token: text(ids.eos), unk_token: text(ids.unknown), pad_token: text(ids.padding) };
  return {
    tokenizerJson: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens(vocabulary),
      ...parts,
      post_processor: postProcessor(metadata, vocabulary, model === 'llama' || familyOf(metadata)?.addBos === true),
    },
    tokenizerConfig: Object.fromEntries(Object.entries(names).filter(([, value]) => value !== undefined)) as JsonObject,
    chatTemplate: metadata.string('tokenizer.chat_template'),
    toolUseTemplate: metadata.string('tokenizer.chat_template.tool_use'),
  };
}

function readVocabulary(metadata: GgufMetadata): Vocabulary {
  const list = 'tokenizer.ggml.tokens';
  const tokens = metadata.required(list, metadata.strings(list));
  const types = metadata.numbers('tokenizer.ggml.token_type') ?? [];
  if (types.length !== 0 && types.length !== tokens.length) {
    throw metadata.error('tokenizer.ggml.token_type', `has ${types.length} entries`, `${tokens.length}, one for each token`);
  }
  const ids: Vocabulary['ids'] = {};
  for (const role of ['bos', 'eos', 'unknown', 'padding']) {
    const key = `tokenizer.ggml.${role}_token_id`;
    const id = (ids[role] = metadata.count(key));
    if (id !== undefined && id >= tokens.length) throw metadata.error(key, `is ${id}`, `below ${tokens.length}, the number of tokens`);
  }
  return { tokens, types, ids, vocab: new Map(tokens.map((token, id) => [token, id])) };
}

/**
 * Tokens that are found in a text before anything else: control tokens, and those that users defined, which are not special. Tokens with a
 * role always are.
 */
function addedTokens({ tokens, types, ids }: Vocabulary): JsonObject[] {
  const added: JsonObject[] = [];
  const roles = new Set(Object.values(ids));
  for (const [id, content] of tokens.entries()) {
    const special = types[id] === controlToken || roles.has(id);
    if ((!special && types[id] !== userToken) || content === '') continue;
    added.push({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special });
  }
  return added;
}

/** [bos] text [eos], where the file asks for them. */
function postProcessor(metadata: GgufMetadata, { tokens, ids }: Vocabulary, addBosByDefault: boolean): JsonValue {
  const before = (metadata.boolean('tokenizer.ggml.add_bos_token') ?? addBosByDefault) ? ids.bos : undefined;
  const after = metadata.boolean('tokenizer.ggml.add_eos_token') ? ids.eos : undefined;
  if (before === undefined && after === undefined) return null;
  const special = (id: number | undefined, type_id: number) => (id === undefined ? [] : [{ SpecialToken: { id: tokens[id], type_id } }]);
  const sequence = (id: 'A' | 'B', type_id: number) => [
    ...special(before, type_id),
    { Sequence: { id, type_id } },
    ...special(after, type_id),
  ];
  const used = [before, after].filter((id) => id !== undefined);
  return {
    type: 'TemplateProcessing',
    single: sequence('A', 0),
    pair: [...sequence('A', 0), ...sequence('B', 1)],
    special_tokens: Object.fromEntries(used.map((id) => [tokens[id], { id: tokens[id], ids: [id], tokens: [tokens[id]] }])),
  };
}

/** How a family of byte-level vocabularies cuts text before merging. */
interface Family {
  /** Each is applied to the pieces of the one before. */
  splits?: string[];
  /** GPT-2's own expression, after the others. */
  gpt2?: boolean;
  /** A piece that is a token is not merged from its bytes. */
  ignoreMerges?: boolean;
  addBos?: boolean;
}

const gpt2: Family = { gpt2: true };
const digitByDigit: Family = { splits: [splitPatterns.digits], gpt2: true };
const llama3: Family = { splits: [splitPatterns.llama3], ignoreMerges: true, addBos: true };
const qwen2: Family = { splits: [splitPatterns.qwen2] };

/** By `tokenizer.ggml.pre`. */
const families: ReadonlyMap<string, Family> = new Map([
  ['default', gpt2],
  ['gpt-2', gpt2],
  ['smollm', digitByDigit],
  ['starcoder', digitByDigit],
  ['refact', digitByDigit],
  ['codeshell', digitByDigit],
  ['llama-bpe', llama3],
  ['llama3', llama3],
  ['llama-v3', llama3],
  ['falcon3', llama3],
  ['pixtral', llama3],
  ['smaug-bpe', { splits: llama3.splits }],
  ['dbrx', { splits: llama3.splits }],
  ['qwen2', qwen2],
  ['deepseek-r1-qwen', qwen2],
  ['megrez', qwen2],
  ['tekken', { splits: [splitPatterns.tekken], ignoreMerges: true, addBos: true }],
]);

function familyOf(metadata: GgufMetadata): Family | undefined {
  return families.get(metadata.string('tokenizer.ggml.pre') ?? 'default');
}

/** A vocabulary like GPT-2's: BPE over bytes, each written as one printable character. */
function byteLevel(metadata: GgufMetadata, { vocab }: Vocabulary): JsonObject {
  const family = familyOf(metadata);
  if (!family) {
    const pre = JSON.stringify(metadata.string('tokenizer.ggml.pre'));
    throw metadata.error('tokenizer.ggml.pre', `is ${pre}`, [...families.keys()].join(', '), 'use the tokenizer.json of this model');
  }
  const merges = metadata.required('tokenizer.ggml.merges', metadata.strings('tokenizer.ggml.merges'));
  const pairs = merges.map((merge, i) => {
    const at = merge.indexOf(' ', 1);
    const pair = [merge.slice(0, at), merge.slice(at + 1)];
    if (at > 0 && vocab.has(pair[0]) && vocab.has(pair[1]) && vocab.has(pair.join(''))) return pair;
    throw metadata.error('tokenizer.ggml.merges', `entry ${i}, ${JSON.stringify(merge)}, is not a pair of tokens that merge to a token`);
  });
  const split = (Regex: string) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false });
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: family.gpt2 === true };
  return {
    normalizer: null,
    pre_tokenizer: { type: 'Sequence', pretokenizers: [...(family.splits ?? []).map(split), bytes] },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: bpe(vocab, pairs, { ignore_merges: family.ignoreMerges === true }),
  };
}

/** A SentencePiece vocabulary of the kind BPE: spaces are ▁, unknown characters fall back to tokens of their bytes. */
function sentencePiece(metadata: GgufMetadata, vocabulary: Vocabulary): JsonObject {
  const { vocab, tokens, ids } = vocabulary;
  const prefix = metadata.boolean('tokenizer.ggml.add_space_prefix') ?? true;
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  const back: JsonObject[] = [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }];
  const unknown = ids.unknown === undefined ? null : tokens[ids.unknown];
  return {
    normalizer: prefix ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, spaces] } : spaces,
    pre_tokenizer: null,
    decoder: { type: 'Sequence', decoders: [...back, ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : [])] },
    model: bpe(vocab, mergesByScore(metadata, vocabulary), { unk_token: unknown, fuse_unk: true, byte_fallback: true }),
  };
}

function bpe(vocab: Map<string, number>, merges: string[][], options: JsonObject): JsonObject {
  // Without a prototype, so that a token `__proto__` is a key like any other.
  const entries: JsonObject = Object.create(null);
  for (const [token, id] of vocab) entries[token] = id;
  const defaults = { unk_token: null, fuse_unk: false, byte_fallback: false, ignore_merges: false };
  return {
    type: 'BPE',
    dropout: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    ...defaults,
    ...options,
    vocab: entries,
    merges,
  };
}

/** The longest piece whose parts are looked for; SentencePiece's own limit is 16 characters. */
const maxPieceLength = 128;

/**
 * The file has scores instead of merges. SentencePiece joins the neighbours whose joint token has the highest score, which is a BPE whose
 * merges are all ways to cut each token in two, ordered by its score.
 */
function mergesByScore(metadata: GgufMetadata, { vocab, tokens }: Vocabulary): string[][] {
  const key = 'tokenizer.ggml.scores';
  const scores = metadata.required(key, metadata.numbers(key));
  if (scores.length !== tokens.length) throw metadata.error(key, `has ${scores.length} entries`, `${tokens.length}, one for each token`);
  const merges: { pair: string[]; score: number; lengths: number[] }[] = [];
  for (const [token, id] of vocab) {
    const characters = token.length > maxPieceLength ? [] : [...token];
    const cuts = [];
    for (let cut = 1; cut < characters.length; cut++) {
      const pair = [characters.slice(0, cut).join(''), characters.slice(cut).join('')];
      const [left, right] = pair.map((part) => vocab.get(part));
      if (left !== undefined && right !== undefined)
        cuts.push({ left, right, pair, score: scores[id], lengths: [cut, characters.length - cut] });
    }
    merges.push(...cuts.sort((a, b) => a.left - b.left || a.right - b.right));
  }
  merges.sort((a, b) => b.score - a.score || b.lengths[0] - a.lengths[0] || b.lengths[1] - a.lengths[1]);
  return merges.map(({ pair }) => pair);
}
