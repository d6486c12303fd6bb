import type { Span } from './chat-template.js';
import type { Tokenizer } from './tokenizer.js';

const utf8 = new TextEncoder();

/** The tokens of a text, and which of them hold what. */
export interface Encoding {
  /** [T] */
  ids: readonly number[];
  /**
   * The tokens that hold the characters of each span: [first, last) into `ids`. A token that reaches across the edge of a span belongs to
   * it. `spans` are in order and do not overlap.
   */
  ranges(spans: readonly Span[]): Span[];
}

/** Encodes many texts at once, as `encodeText` does each. */
export type Encoder = (texts: readonly string[]) => Promise<Encoding[]>;

/** The encoding of a text by the tokenizer itself. */
export function encodeText(tokenizer: Tokenizer, text: string): Encoding {
  const ids = tokenizer.encode(text);
  return { ids, ranges: (spans) => tokenRanges(tokenizer, ids, text, spans) };
}

/**
 * The tokens that hold the characters of each span: [first, last) into `ids`, which must be `tokenizer.encode(text)`. A token that
 * reaches across the edge of a span belongs to it. `spans` are in order and do not overlap.
 *
 * The tokenizer knows no offsets. A cut lies between two tokens if the text since the last such cut, encoded alone, gives the same
 * ids for the same bytes; otherwise all text before the cut is encoded, and from where its ids differ the tokens' lengths decide.
 */
export function tokenRanges(tokenizer: Tokenizer, ids: readonly number[], text: string, spans: readonly Span[]): Span[] {
  const bytesOf = (tokens: readonly number[]) => tokens.reduce((sum, id) => sum + tokenizer.byteLength(id), 0);
  let cleanCut = 0;
  let cleanCount = 0;
  /** How many tokens lie before the cut wholly, and in part. */
  const tokensBefore = (cut: number): { whole: number; touched: number } => {
    const since = tokenizer.encode(text.slice(cleanCut, cut));
    let whole = cleanCount + since.length;
    // Some tokenizers begin every piece with a space. That is no difference at the text's start and after a special token.
    const fresh = cleanCount === 0 || tokenizer.isSpecial(ids[cleanCount - 1]);
    const sameBytes = () => bytesOf(since) === utf8.encode(text.slice(cleanCut, cut)).length;
    if (!since.every((id, i) => ids[cleanCount + i] === id) || !(fresh || sameBytes())) {
      const prefix = tokenizer.encode(text.slice(0, cut));
      whole = prefix.findIndex((id, i) => ids[i] !== id);
      if (whole < 0) whole = prefix.length;
      let rest = bytesOf(prefix.slice(whole));
      while (rest > 0 && whole < ids.length && tokenizer.byteLength(ids[whole]) <= rest) rest -= tokenizer.byteLength(ids[whole++]);
      if (rest > 0) return { whole, touched: Math.min(whole + 1, ids.length) };
    }
    cleanCut = cut;
    cleanCount = whole;
    return { whole, touched: whole };
  };
  return spans.map(([start, end]) => [tokensBefore(start).whole, tokensBefore(end).touched] as const);
}
