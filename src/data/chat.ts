import { LowrankError } from '../util/errors.js';
import type { JsonValue } from '../util/json.js';
import { type Encoding, encodeText } from './align.js';
import type { ChatTemplate, Message, Rendering, Span } from './chat-template.js';
import type { Tokenizer } from './tokenizer.js';
import { closingText, findTurn, type Turn } from './turns.js';

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
  /**
   * Tokens that end a turn though the tokenizer does not call them special, or though the template begins the next turn with them. Where
   * the template does not close the last turn, the first of them is written behind it.
   */
  eot_tokens?: readonly string[];
  /** A message's key, true or false, 1 or 0, that overrides `roles_to_train`. */
  message_field_training?: string;
}

/** A conversation with the tools it may use; `place` is its row. */
export interface Conversation {
  messages: readonly Message[];
  /** Of each message whether it is trained, where the row itself says so. */
  train?: readonly (boolean | undefined)[];
  tools?: JsonValue;
  place: string;
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

/** Whether a message is trained: as its row says, or else by its role. */
export function isTrained({ messages, train = [] }: Conversation, index: number, roles: readonly string[] = ['assistant']): boolean {
  return train[index] ?? roles.includes(messages[index].role);
}

/**
 * Renders a conversation and finds the turns to be trained, which `label` supervises with their terminators. Throws where the template
 * fails and where a turn cannot be located; `label` where a trained turn has no terminator that could be learnt, and where the text begins
 * with two bos tokens.
 */
export function draftConversation(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  conversation: Conversation,
  options: SupervisionOptions,
): Draft & { rendering: Rendering } {
  const { messages, tools, place } = conversation;
  const rendering = template.render(messages, { tools, place });
  const turns = options.train_on_inputs ? [] : turnsToTrain(template, rendering, conversation, options);
  const label = (encoding: Encoding): Labelled => {
    const inputIds = [...encoding.ids];
    refuseDoubleBos(tokenizer, inputIds, place);
    if (options.train_on_inputs) return { inputIds, labels: [...inputIds] };
    const ender = new Ender(tokenizer, template, conversation, options.eot_tokens);
    return labelTurns(ender, inputIds, turns, encoding.ranges(turns.map(({ span }) => span)), options);
  };
  return { text: rendering.text, rendering, label };
}

/** What of a conversation's text is to be trained: what the template declares as generated, or else the turns of the chosen roles. */
function turnsToTrain(
  template: ChatTemplate,
  { text, generated, misplaced }: Rendering,
  conversation: Conversation,
  { roles_to_train: roles = ['assistant'] }: SupervisionOptions,
): TrainedTurn[] {
  const { messages, tools, train = [], place } = conversation;
  const byRole = train.every((flag) => flag === undefined);
  if ((generated.length > 0 || misplaced) && byRole && roles.length === 1 && roles[0] === 'assistant') {
    if (misplaced) throw misplacedError(place);
    const index = messages.findIndex(({ role }) => role === 'assistant');
    return generated.map((span) => ({ span, whole: false, index }));
  }
  return messages.flatMap((_, index) =>
    isTrained(conversation, index, roles) ? [{ ...findTurn(template, text, messages, index, { tools, place }), index }] : [],
  );
}

function misplacedError(place: string): LowrankError {
  return new LowrankError(
    'a generation block stands in a macro or in a block of set, filter or call, so that its place in the text is not known',
    {
      place,
      mend: 'move {% generation %} and {% endgeneration %} to where the text is printed, or remove them: the turns are found without',
    },
  );
}

/** The same at once, the text encoded by the tokenizer itself. */
export function labelConversation(...parameters: Parameters<typeof draftConversation>): Labelled {
  const draft = draftConversation(...parameters);
  return draft.label(encodeText(parameters[0], draft.text));
}

/** A turn with a message of its role. */
type TrainedTurn = Turn & { index: number };

/** Labels the tokens of the turns that are trained, which `ranges` says, and their terminators. */
function labelTurns(
  ender: Ender,
  inputIds: number[],
  turns: readonly TrainedTurn[],
  ranges: readonly Span[],
  options: SupervisionOptions,
): Labelled {
  const ends = ranges.map((range, i) => ender.find(inputIds, range, turns[i].whole, turns[i].index));
  ender.closeLast(inputIds, ranges, ends);
  const labels = new Array<number>(inputIds.length).fill(-100);
  ranges.forEach(([first, last], i) => {
    // All up to the terminator is to be written, a line's end before it too; what follows it is not.
    const stop = turns[i].whole && ends[i] >= 0 ? ends[i] : Math.max(last, ends[i]);
    for (let t = first; t < stop; t++) labels[t] = inputIds[t];
  });
  labelTerminators(ender.tokenizer, { inputIds, labels }, ends, options, ender.conversation.place);
  return { inputIds, labels };
}

/** Throws where the text begins with the beginning-of-text token twice, which a template and a tokenizer that both add it cause. */
export function refuseDoubleBos(tokenizer: Tokenizer, ids: readonly number[], place: string): void {
  const { bosTokenId: bos } = tokenizer;
  if (bos === undefined || ids[0] !== bos || ids[1] !== bos) return;
  const mend = `remove ${tokenizer.specialTokens.bos_token} from the data, or from the chat template`;
  throw new LowrankError('the text begins with two bos tokens', { place, mend });
}

/** Finds the tokens that end turns: special ones, and those of `eot_tokens`. */
class Ender {
  /** The ids of `eot_tokens`. */
  readonly named: readonly number[];
  readonly tokenizer: Tokenizer;
  private readonly template: ChatTemplate;
  readonly conversation: Conversation;
  private readonly closing = new Map<string, readonly number[] | undefined>();

  constructor(tokenizer: Tokenizer, template: ChatTemplate, conversation: Conversation, eotTokens: readonly string[] = []) {
    this.tokenizer = tokenizer;
    this.template = template;
    this.conversation = conversation;
    this.named = eotTokens.map((token) => {
      const id = tokenizer.tokenToId(token);
      if (id !== undefined) return id;
      throw new LowrankError(`${JSON.stringify(token)} is not one token of the vocabulary`, {
        place: 'eot_tokens',
        mend: 'name a token that is',
      });
    });
  }

  private isEnd(id: number): boolean {
    return this.tokenizer.isSpecial(id) || this.named.includes(id);
  }

  /** The tokens that end a turn of the role of `messages[index]` when nothing follows; undefined where the template does not show them. */
  private closingEnds(index: number): readonly number[] | undefined {
    const { messages, tools, place } = this.conversation;
    const { role } = messages[index];
    if (!this.closing.has(role)) {
      const after = closingText(this.template, messages, index, { tools, place });
      this.closing.set(role, after === undefined ? undefined : this.tokenizer.encode(after).filter((id) => this.isEnd(id)));
    }
    return this.closing.get(role);
  }

  /**
   * The position of the token that ends the turn of `messages[index]`, or −1. Of those that close the span (white space apart) it is
   * the first of what closes any turn of the role: special tokens before it belong to what was written, such as a tool call. Where
   * the span is only the content, it is the token that follows, unless that begins the next turn.
   */
  find(ids: readonly number[], [first, last]: Span, whole: boolean, index: number): number {
    const isBlank = (id: number) => this.tokenizer.decode([id]).trim() === '';
    const found: number[] = [];
    for (let t = last - 1; t >= first && (this.isEnd(ids[t]) || isBlank(ids[t])); t--) if (this.isEnd(ids[t])) found.push(t);
    if (found.length > 1 || (found.length === 1 && 'tool_calls' in this.conversation.messages[index])) {
      const count = this.closingEnds(index)?.length ?? found.length;
      return found[Math.min(count, found.length) - 1] ?? -1;
    }
    if (found.length === 1 || whole) return found[0] ?? -1;
    let next = last;
    while (next < ids.length && !this.isEnd(ids[next]) && isBlank(ids[next])) next++;
    if (next >= ids.length || !this.isEnd(ids[next])) return -1;
    const expected = this.closingEnds(index);
    return !expected || ids[next] === expected[0] || this.named.includes(ids[next]) ? next : -1;
  }

  /** Writes the first of `eot_tokens` behind a last turn that the template does not close. */
  closeLast(ids: number[], ranges: readonly Span[], ends: number[]): void {
    const last = ends.length - 1;
    if (this.named.length === 0 || ends[last] !== -1) return;
    if (this.tokenizer.decode(ids.slice(ranges[last][1])).trim() !== '') return;
    ends[last] = ids.length;
    ids.push(this.named[0]);
  }
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
    throw new LowrankError(`trained turn ${missing + 1} ends without a special token of its own, so the model would not learn to stop`, {
      place,
      expected: `a token such as ${tokenizer.specialTokens.eos_token ?? '<|im_end|>'} after the turn’s text, before the next turn begins`,
      mend: 'use a chat template that closes turns, name the token that ends them in eot_tokens, or set train_on_eos: none',
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
