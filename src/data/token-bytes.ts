const encoder = new TextEncoder();

/**
 * How many bytes of text a token's string stands for. Byte-level vocabularies write each byte as one character (GPT-2's
 * `bytes_to_unicode`); SentencePiece ones write a space as ▁ and a byte as `<0xNN>`; added tokens are text as it is.
 */
export function tokenByteLength(token: string, added: boolean, byteLevel: boolean): number {
  if (added) return encoder.encode(token).length;
  if (byteLevel) return token.length;
  if (/^<0x[0-9A-Fa-f]{2}>$/.test(token)) return 1;
  return encoder.encode(token.replaceAll('▁', ' ')).length;
}

/**
 * The characters that stand for the bytes of texts in byte-level vocabularies: a byte that prints is its own character, the others follow
 * from U+0100 on. Bytes that UTF-8 never has are left out. https://github.com/openai/gpt-2/blob/master/src/encoder.py (`bytes_to_unicode`)
 */
export function byteCharacters(): string[] {
  const prints = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  const inText = (byte: number) => byte < 0xc0 || (byte > 0xc1 && byte < 0xf5);
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => [byte, prints(byte) ? byte : 0x100 + others++])
    .filter(([byte]) => inText(byte))
    .map(([, code]) => String.fromCharCode(code));
}

/** SentencePiece's tokens of single bytes, which a complete fallback has all. */
export const fallbackTokens = (): string[] =>
  Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
