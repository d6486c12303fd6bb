import { LowrankError } from '../util/errors.js';
import type { JsonValue } from '../util/json.js';
import { type Encoding, encodeText } from './align.js';
import type { ChatTemplate, Message, Rendering, Span } from './chat-template.js';
import type { Tokenizer } from './tokenizer.js';
import { findTurn, type Turn } from './turns.js';

/** Which ends of turns are supervised: those of trained turns, of all turns, of the last trained turn, none. */
export type EndPolicy = 'turn' | 'all' | 'last' | 'none';

/** What of a conversation is trained; the names are Axolotl's. */
export interface SupervisionOptions {
  /** Default: assistant. */
  roles_to_train?: readonly string[];
  /** Supervise every token; default false. */
  train_on_inputs?: boolean;
  /** Default: turn. */
  train_on_eos?: EndPolicy;
  /** The same for tokens that end a turn but not the text; default: as `train_on_eos`. */
  train_on_eot?: EndPolicy;
  /** Tokens that end a turn though the tokenizer does not call them special. */
  eot_tokens?: readonly string[];
  /** A message's key, true or false, that overrides `roles_to_train`. */
  message_field_training?: string;
}

export interface Labelled {
  inputIds: number[];
  /** The token at its own position where it is supervised, otherwise −100. */
  labels: number[];
}

/** A text that is to be encoded, and what then makes labels of its tokens; `label` throws where these cannot be learnt. */
export interface Draft {
  text: string;
  label(encoding: Encoding): Labelled;
}

/**
 * Renders a conversation and finds the turns to be trained, which `label` supervises with their terminators. Throws where the template fails and
 * where a turn cannot be located; `label` where a trained turn has no terminator that could be learnt, and where the text begins with two bos tokens.
 */
export function draftConversation(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  conversation: { messages: readonly Message[]; tools?: JsonValue; place: string },
  options: SupervisionOptions,
): Draft {
  const { messages, tools, place } = conversation;
  const rendering = template.render(messages, { tools, place });
  const turns = options.train_on_inputs ? [] : turnsToTrain(template, rendering, conversation, options);
  const label = (encoding: Encoding): Labelled => {
    const inputIds = [...encoding.ids];
    refuseDoubleBos(tokenizer, inputIds, place);
    if (options.train_on_inputs) return { inputIds, labels: [...inputIds] };
    return labelTurns(tokenizer, inputIds, turns, encoding.ranges(turns.map(({ span }) => span)), options, place);
  };
  return { text: rendering.text, label };
}

/** What of a conversation's text is to be trained: what the template declares as generated, or else the turns of the chosen roles. */
function turnsToTrain(
  template: ChatTemplate,
  { text, generated }: Rendering,
  { messages, tools, place }: { messages: readonly Message[]; tools?: JsonValue; place: string },
  { roles_to_train: roles = ['assistant'], message_field_training: field }: SupervisionOptions,
): Turn[] {
  if (generated.length > 0 && field === undefined && roles.length === 1 && roles[0] === 'assistant')
    return generated.map((span) => ({ span, whole: false }));
  return messages.flatMap((message, index) => {
    const flag = field === undefined ? undefined : message[field];
    const chosen = typeof flag === 'boolean' ? flag : roles.includes(message.role);
    return chosen ? [findTurn(template, text, messages, index, { tools, place })] : [];
  });
}

/** The same at once, the text encoded by the tokenizer itself. */
export function labelConversation(...parameters: Parameters<typeof draftConversation>): Labelled {
  const draft = draftConversation(...parameters);
  return draft.label(encodeText(parameters[0], draft.text));
}

/** Labels the tokens of the turns that are trained, which `ranges` says, and their terminators. */
function labelTurns(
  tokenizer: Tokenizer,
  inputIds: number[],
  turns: readonly Turn[],
  ranges: readonly Span[],
  options: SupervisionOptions,
  place: string,
): Labelled {
  const isEnd = turnEnds(tokenizer, options.eot_tokens);
  const ends = ranges.map((range, i) => findTerminator(tokenizer, inputIds, range, turns[i].whole, isEnd));
  const labels = new Array<number>(inputIds.length).fill(-100);
  ranges.forEach(([first, last], i) => {
    // After the terminator of a turn comes what no model has to write, such as a line's end.
    for (let t = first; t < (turns[i].whole && ends[i] >= 0 ? ends[i] : last); t++) labels[t] = inputIds[t];
  });
  labelTerminators(tokenizer, { inputIds, labels }, ends, options, place);
  return { inputIds, labels };
}

/** Throws where the text begins with the beginning-of-text token twice, which a template and a tokenizer that both add it cause. */
export function refuseDoubleBos(tokenizer: Tokenizer, ids: readonly number[], place: string): void {
  const { bosTokenId: bos } = tokenizer;
  if (bos === undefined || ids[0] !== bos || ids[1] !== bos) return;
  const mend = `remove ${tokenizer.specialTokens.bos_token} from the data, or from the chat template`;
  throw new LowrankError('the text begins with two bos tokens', { place, mend });
}

/** Which tokens may end a turn: special ones and `eot_tokens`. */
function turnEnds(tokenizer: Tokenizer, eotTokens: readonly string[] = []): (id: number) => boolean {
  const named = eotTokens.map((token) => {
    const id = tokenizer.tokenToId(token);
    if (id !== undefined) return id;
    throw new LowrankError(`${JSON.stringify(token)} is not one token of the vocabulary`, {
      place: 'eot_tokens',
      mend: 'name a token that is',
    });
  });
  return (id) => tokenizer.isSpecial(id) || named.includes(id);
}

/**
 * The position of the token that ends a turn, or −1: the first special token of those that close the span (white space apart), or, where
 * the span is only the content, the special token that follows it.
 */
function findTerminator(
  tokenizer: Tokenizer,
  ids: readonly number[],
  [first, last]: Span,
  whole: boolean,
  isEnd: (id: number) => boolean,
): number {
  const isBlank = (id: number) => tokenizer.decode([id]).trim() === '';
  let found = -1;
  for (let t = last - 1; t >= first && (isEnd(ids[t]) || isBlank(ids[t])); t--) if (isEnd(ids[t])) found = t;
  if (found >= 0 || whole) return found;
  let next = last;
  while (next < ids.length && !isEnd(ids[next]) && isBlank(ids[next])) next++;
  return next < ids.length && isEnd(ids[next]) ? next : -1;
}

function labelTerminators(
  tokenizer: Tokenizer,
  { inputIds, labels }: Labelled,
  ends: readonly number[],
  options: SupervisionOptions,
  place: string,
): void {
  const { train_on_eos: onEos = 'turn', train_on_eot: onEot = onEos } = options;
  if (onEos === 'none' && onEot === 'none') {
    for (const end of ends) if (end >= 0) labels[end] = -100;
    return;
  }
  const missing = ends.indexOf(-1);
  if (missing >= 0) {
    throw new LowrankError(`trained turn ${missing + 1} ends without a special token, so the model would not learn to stop`, {
      place,
      expected: `a token such as ${tokenizer.specialTokens.eos_token ?? '<|im_end|>'} after the turn’s text`,
      mend: 'use a chat template that writes one, name it in eot_tokens, or set train_on_eos: none',
    });
  }
  const policyOf = (id: number) => (id === tokenizer.eosTokenId ? onEos : onEot);
  ends.forEach((end, i) => {
    const policy = policyOf(inputIds[end]);
    labels[end] = policy === 'none' || (policy === 'last' && i < ends.length - 1) ? -100 : inputIds[end];
  });
  const everywhere = new Set(ends.map((end) => inputIds[end]).filter((id) => policyOf(id) === 'all'));
  inputIds.forEach((id, t) => {
    if (everywhere.has(id)) labels[t] = id;
  });
}
