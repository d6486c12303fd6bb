import type { Encoder, Encoding } from '../../data/align.js';
import type { Span } from '../../data/chat-template.js';
import { isKnownSplit } from '../../data/split-patterns.js';
import { fallbackTokens } from '../../data/token-bytes.js';
import type { Tokenizer } from '../../data/tokenizer.js';
import { isObject, type JsonObject, type JsonValue } from '../../util/json.js';

type Library = typeof import('tokenizers');
type NativeEncoding = Awaited<ReturnType<InstanceType<Library['Tokenizer']>['encode']>>;

/** Characters of many kinds, to see whether two tokenizers agree. */
const probe = "The größte  Straße's 12345 tokens, \n\n\tcafe\u0301 ﬁ 漢字🎉👩‍👩‍👧 \u00a0\u200bx...<|im_end|></s> ";

/**
 * Hugging Face's Rust tokenizer, which is several times as fast as the one in JavaScript and knows where in the text its tokens stand.
 * Undefined where the package is not installed, where a text may hold what the vocabulary cannot write, where its expressions are not known
 * to be harmless, and where the two do not agree.
 */
export async function openNativeEncoder(tokenizer: Tokenizer): Promise<Encoder | undefined> {
  const { tokenizerJson } = tokenizer.files;
  if (!writesBytes(tokenizer) || !knownPatterns([tokenizerJson.normalizer, tokenizerJson.pre_tokenizer])) return undefined;
  const library: Library | undefined = await import('tokenizers').catch(() => undefined);
  if (!library) return undefined;
  // What pads, cuts and adds is left out, and what would merge at random. So is what would take spaces out of the tokens' places.
  const plain = {
    ...tokenizerJson,
    model: { ...(tokenizerJson.model as JsonObject), dropout: null },
    truncation: null,
    padding: null,
    post_processor: null,
  };
  const native = opened(library, JSON.stringify(plain));
  if (!native) return undefined;
  const encode: Encoder = async (texts) => {
    const encodings = await native.encodeBatch([...texts], { addSpecialTokens: false });
    return encodings.map((encoding, i) => located(encoding, texts[i]));
  };
  const text = probe + Object.values(tokenizer.specialTokens).join('a');
  const ids = (await native.encode(text, null, { addSpecialTokens: false })).getIds();
  return agree(ids, text, tokenizer) ? encode : undefined;
}

/** Undefined where the library refuses the file: the other tokenizer says what is wrong with it, or reads it all the same. */
function opened(library: Library, json: string): InstanceType<Library['Tokenizer']> | undefined {
  try {
    return library.Tokenizer.fromString(json);
  } catch {
    return undefined;
  }
}

function agree(ids: readonly number[], text: string, tokenizer: Tokenizer): boolean {
  try {
    const expected = tokenizer.encode(text);
    return ids.length === expected.length && ids.every((id, t) => id === expected[t]);
  } catch {
    return false;
  }
}

/**
 * Whether every text is written in tokens of bytes: as byte-level vocabularies do, or by SentencePiece's fallback with all bytes. What
 * others cannot write becomes an unknown token, in each library by rules of its own.
 */
function writesBytes(tokenizer: Tokenizer): boolean {
  const { model, normalizer, pre_tokenizer } = tokenizer.files.tokenizerJson;
  if (!isObject(model) || model.type !== 'BPE') return false;
  if (JSON.stringify([normalizer, pre_tokenizer]).includes('"ByteLevel"') && (model.unk_token ?? null) === null) return true;
  return model.byte_fallback === true && fallbackTokens().every((token) => tokenizer.tokenToId(token) !== undefined);
}

/** Whether its expressions are those of published vocabularies: the library has no bound for others. */
function knownPatterns(value: JsonValue | undefined): boolean {
  if (Array.isArray(value)) return value.every(knownPatterns);
  if (!isObject(value)) return true;
  return (typeof value.Regex !== 'string' || isKnownSplit(value.Regex)) && Object.values(value).every(knownPatterns);
}

/** The library counts characters, where JavaScript counts UTF-16 units. */
function located(encoding: NativeEncoding, text: string): Encoding {
  const ids = encoding.getIds();
  const ranges = (spans: readonly Span[]): Span[] => {
    const length = characters(text, 0, text.length);
    let unit = 0;
    let at = 0;
    const characterAt = (next: number): number => {
      at += characters(text, unit, next);
      unit = next;
      return at;
    };
    return spans.map(([start, end]) => {
      const first = firstTokenFrom(encoding, characterAt(start), length) ?? ids.length;
      const stop = characterAt(end);
      let last = firstTokenFrom(encoding, stop, length) ?? ids.length;
      // Tokens that hold what is behind the span, and some of the span too.
      while (last < ids.length && encoding.tokenToChars(last)![0] < stop) last++;
      return [first, last] as const;
    });
  };
  return { ids, ranges };
}

/** The first token that holds the character `at`, or else one behind it. */
function firstTokenFrom(encoding: NativeEncoding, at: number, length: number): number | undefined {
  for (let i = at; i < length; i++) {
    const token = encoding.charToToken(i);
    if (token !== null) return token;
  }
  return undefined;
}

/** Characters of a part of a text. */
function characters(text: string, from: number, to: number): number {
  let count = to - from;
  for (let i = from; i < to; i++) {
    const unit = text.charCodeAt(i);
    if (unit >= 0xdc00 && unit < 0xe000 && i > 0 && text.charCodeAt(i - 1) >= 0xd800 && text.charCodeAt(i - 1) < 0xdc00) count--;
  }
  return count;
}
