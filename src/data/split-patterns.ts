// The expressions by which published byte-level vocabularies cut text before merging, as their tokenizer.json has them.

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const ending = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const upper = '\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}';
const lower = '\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}';
const word = '[^\\r\\n\\p{L}\\p{N}]?';
const wordsBy = (digits: string) => `${contractions}|${word}\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${ending}`;
/** Words that end before the next capital letter. */
const cased = (digits: string, suffix: string) =>
  `${word}[${upper}]*[${lower}]+${suffix}|${word}[${upper}]+[${lower}]*${suffix}|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${ending}`;

/** By who came first with it; others follow. */
export const splitPatterns = {
  gpt2: "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  digits: '\\p{N}',
  threeDigits: '\\p{N}{1,3}',
  llama3: wordsBy('\\p{N}{1,3}'),
  qwen2: wordsBy('\\p{N}'),
  qwen35: `${contractions}|${word}[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|${ending}`,
  tekken: cased('\\p{N}', ''),
  o200k: cased('\\p{N}{1,3}', `${contractions}?`),
  deepseekCjk: '[一-龥\u3040-ゟ゠-ヿ]+',
  deepseek:
    '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|' +
    ` ?[\\p{P}\\p{S}]+[\\r\\n]*|${ending}`,
} as const;

const known: ReadonlySet<string> = new Set(Object.values(splitPatterns));

/**
 * Whether an expression is one of those, which every engine matches in time that grows with the text alone. Any other may take for ever
 * where an engine tries all ways, as JavaScript's own and that of the Rust tokenizer do.
 */
export function isKnownSplit(pattern: string): boolean {
  return known.has(pattern);
}
