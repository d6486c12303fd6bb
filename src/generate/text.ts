import type { PromptCodec } from '../data/contract.js';
import type { CausalLM } from '../nn/model.js';
import { textConfigOf } from '../util/text-config.js';
import { type Answer, type GenerationOptions, generate } from './generate.js';
import type { SamplingOptions } from './sampler.js';

/** A model that reads prompts and writes answers. */
export type AnsweringModel = PromptCodec & { model: CausalLM };

export interface TextOptions extends SamplingOptions {
  max_new_tokens: number;
  /** Texts before which an answer ends. */
  stop?: readonly string[];
  seed?: number;
  signal?: AbortSignal;
}

/**
 * The ids that end an answer: all that the tokenizer, config.json and generation_config.json name, since models are published with any of
 * them incomplete, and those that training supervised.
 */
export function stopIdsOf({ tokenizer, contract, generationConfig }: PromptCodec, config: Readonly<Record<string, unknown>>): Set<number> {
  const taught = contract?.terminators.map(({ id }) => id) ?? [];
  const named = [
    config.eos_token_id,
    textConfigOf(config).eos_token_id,
    generationConfig?.eos_token_id,
    tokenizer.eosTokenId,
    taught,
  ].flat();
  return new Set(named.filter((id): id is number => typeof id === 'number'));
}

/**
 * Where an answer ends: at ids, and before texts. A stop text that is one special token is an id, since answers do not show such tokens.
 */
function endsOf(text: AnsweringModel, stop: readonly string[] = []): { stopIds: Set<number>; stop: string[] } {
  const stopIds = stopIdsOf(text, text.model.config);
  const texts = stop.filter((word) => {
    const id = text.tokenizer.tokenToId(word);
    if (id === undefined || !text.tokenizer.isSpecial(id)) return true;
    stopIds.add(id);
    return false;
  });
  return { stopIds, stop: texts };
}

/** The answers' texts to prompts of token ids, all generated together. */
export async function answerTexts(
  text: AnsweringModel,
  prompts: readonly (readonly number[])[],
  options: TextOptions & Pick<GenerationOptions, 'onToken'>,
): Promise<string[]> {
  const { stopIds, stop } = endsOf(text, options.stop);
  const answers = await generate(text.model, prompts, { ...options, stopIds });
  return answers.map(({ ids }) => cutAtStop(text.tokenizer.decode(ids, { skipSpecialTokens: true }), stop).text);
}

/** One answer, piece by piece as it is generated. Text that could be the beginning of a stop string is held back until it is not. */
export async function streamAnswer(
  text: AnsweringModel,
  prompt: readonly number[],
  options: TextOptions,
  onText: (piece: string) => void,
): Promise<Answer & { text: string }> {
  const { stopIds, stop } = endsOf(text, options.stop);
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
  const [answer] = await generate(text.model, [prompt], { ...options, stopIds, onToken });
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
