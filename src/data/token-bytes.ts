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
