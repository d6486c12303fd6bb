import type { Sequence } from './prepare.js';
import type { Tokenizer } from './tokenizer.js';

/**
 * The text of a sequence, token by token, special tokens included; `paint` colours what is supervised and what is not, and is called
 * once per run of tokens that are treated alike.
 */
export function previewSequence(
  tokenizer: Tokenizer,
  { inputIds, labels }: Sequence,
  paint: (text: string, supervised: boolean) => string,
): string {
  // Streamed, so that a character of several tokens appears whole, with the last of them.
  const decoder = tokenizer.createDecoder({ skipSpecialTokens: false });
  let result = '';
  let run = '';
  inputIds.forEach((id, t) => {
    const supervised = labels[t] !== -100;
    run += decoder.push(id);
    if (t + 1 < inputIds.length && (labels[t + 1] !== -100) === supervised) return;
    if (t + 1 === inputIds.length) run += decoder.end();
    if (run !== '') result += paint(run, supervised);
    run = '';
  });
  return result;
}
