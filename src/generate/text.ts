import { refuseDoubleBos } from '../data/chat.js';
import type { Message } from '../data/chat-template.js';
import type { TextModel } from '../models/text-model.js';
import { LowrankError } from '../util/errors.js';
import { type Answer, type GenerationOptions, generate } from './generate.js';
import type { SamplingOptions } from './sampler.js';

export interface TextOptions extends SamplingOptions {
  max_new_tokens: number;
  /** Texts before which an answer ends. */
  stop?: readonly string[];
  seed?: number;
  signal?: AbortSignal;
}

/** The ids that end an answer: the tokenizer's eos and those that config.json names. */
export function stopIdsOf({ model, tokenizer }: TextModel): Set<number> {
  const named = model.config.eos_token_id;
  const ids = Array.isArray(named) ? named : [named];
  return new Set([tokenizer.eosTokenId, ...ids].filter((id): id is number => typeof id === 'number'));
}

/** Token ids of a conversation with the beginning of the next assistant turn. Throws where the model has no chat template. */
export function chatPrompt({ tokenizer, template }: TextModel, messages: readonly Message[], place?: string): number[] {
  if (!template) {
    throw new LowrankError('the model has no chat template', {
      place,
      mend: 'continue plain text instead (--raw), or take an instruction-tuned model',
    });
  }
  const ids = tokenizer.encode(template.render(messages, { addGenerationPrompt: true, place }).text);
  refuseDoubleBos(tokenizer, ids, place ?? 'chat template');
  return ids;
}

/** Token ids of plain text, with the tokenizer's bos before it. */
export function textPrompt({ tokenizer }: TextModel, text: string): number[] {
  return [...tokenizer.prefixIds, ...tokenizer.encode(text)];
}

/** The answers' texts to prompts of token ids, all generated together. */
export async function answerTexts(
  text: TextModel,
  prompts: readonly (readonly number[])[],
  options: TextOptions & Pick<GenerationOptions, 'onToken'>,
): Promise<string[]> {
  const answers = await generate(text.model, prompts, { ...options, stopIds: stopIdsOf(text) });
  return answers.map(({ ids }) => cutAtStop(text.tokenizer.decode(ids, { skipSpecialTokens: true }), options.stop ?? []).text);
}

/** One answer, piece by piece as it is generated. Text that could be the beginning of a stop string is held back until it is not. */
export async function streamAnswer(
  text: TextModel,
  prompt: readonly number[],
  options: TextOptions,
  onText: (piece: string) => void,
): Promise<Answer & { text: string }> {
  const { stop = [] } = options;
  const decoder = text.tokenizer.createDecoder({ skipSpecialTokens: true });
  let whole = '';
  let shown = 0;
  const show = (end: number) => {
    if (end > shown) onText(whole.slice(shown, end));
    shown = Math.max(shown, end);
  };
  const take = (piece: string): boolean => {
    whole += piece;
    const { text: kept, stopped } = cutAtStop(whole, stop);
    whole = kept;
    show(stopped ? whole.length : whole.length - heldBack(whole, stop));
    return stopped;
  };
  let stopped = false;
  const onToken = (_: number, id: number) => {
    stopped = take(decoder.push(id));
    return stopped;
  };
  const [answer] = await generate(text.model, [prompt], { ...options, stopIds: stopIdsOf(text), onToken });
  if (!stopped) take(decoder.end());
  show(whole.length);
  return { ...answer, text: whole };
}

function cutAtStop(text: string, stop: readonly string[]): { text: string; stopped: boolean } {
  const places = stop.map((word) => (word === '' ? -1 : text.indexOf(word))).filter((place) => place >= 0);
  return places.length === 0 ? { text, stopped: false } : { text: text.slice(0, Math.min(...places)), stopped: true };
}

/** The length of the longest end of `text` that a stop string begins with. */
function heldBack(text: string, stop: readonly string[]): number {
  let longest = 0;
  for (const word of stop) {
    for (let n = Math.min(word.length - 1, text.length); n > longest; n--) if (text.endsWith(word.slice(0, n))) longest = n;
  }
  return longest;
}
