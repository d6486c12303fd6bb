import { z } from 'zod';
import { LowrankError } from '../util/errors.js';
import { type JsonObject, parseJson } from '../util/json.js';
import { refuseDoubleBos } from './chat.js';
import type { ChatTemplate, Message } from './chat-template.js';
import { alpacaPrompt, type DatasetOptions, type DatasetType, datasetTypes } from './formats/index.js';
import type { Example } from './prepare.js';
import type { Tokenizer } from './tokenizer.js';

/** The file in the folder of a result or a checkpoint that says what it was trained with. */
export const contractFile = 'lowrank.json';

const count = z.int().min(0);

/**
 * What a run trained with: everything that answers with its result, merges or exports it frames prompts and ends answers by this, and asks
 * neither the base nor a recipe.
 */
export const RunContract = z.object({
  version: z.literal(1),
  base: z.object({
    /** As the recipe named it. */
    name: z.string(),
    /** Where it lay on the machine that trained, an absolute path; absent where it came from the hub. */
    path: z.string().optional(),
    /** The commit on the hub. */
    revision: z.string().optional(),
    /** `ModelSource.identity`: tells it from every other base. */
    identity: z.string(),
  }),
  /** The Jinja source; absent where the base has no template and the recipe gave none. */
  chat_template: z.string().optional(),
  /** The one that holds where a conversation has tools, where that is another. */
  tool_use_template: z.string().optional(),
  /** What `strftime_now` showed in templates: a date and time without a zone, so that it reads the same in every zone. */
  clock: z.string(),
  /** How a prompt becomes what was trained: a turn of a conversation, an instruction in Alpaca's words, or the beginning of a text. */
  framing: z.enum(['chat', 'alpaca', 'completion']),
  /** The text around a prompt that is no turn of a conversation, which stands in for `{prompt}`. */
  prompt: z.string().optional(),
  /** The data sets: the format of their rows, how many examples came of them, and the keys of a row that were read. */
  datasets: z.array(z.object({ path: z.string(), type: z.enum(datasetTypes), examples: count, read: z.array(z.string()) })),
  /** The tokens that trained turns and texts were taught to end with. */
  terminators: z.array(z.object({ id: count, token: z.string() })),
});
export type RunContract = z.output<typeof RunContract>;

/** Reads a contract's text; errors name `place`. A contract of a later version is refused, for it may mean something else. */
export function parseContract(text: string, place: string): RunContract {
  const result = RunContract.safeParse(parseJson(text, place));
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new LowrankError(`${issue.path.join('.') || 'contract'}: ${issue.message}`, {
    place,
    expected: 'what a training run of this version or an earlier one wrote',
    mend: 'update lowrank, or remove the file: prompts are then framed by the chat template',
  });
}

export type Framing = RunContract['framing'];

const framings: Readonly<Record<DatasetType, Framing>> = {
  chat_template: 'chat',
  alpaca: 'alpaca',
  prompt_completion: 'completion',
  completion: 'completion',
  // Whoever made the token ids knows their format; a chat template is the likeliest.
  tokenized: 'chat',
};

/** The framing of most examples. */
export function framingOf(datasets: RunContract['datasets']): Pick<RunContract, 'framing' | 'prompt'> {
  const examples = new Map<Framing, number>();
  for (const { type, examples: more } of datasets) examples.set(framings[type], (examples.get(framings[type]) ?? 0) + more);
  const framing = [...examples].sort(([, a], [, b]) => b - a)[0]?.[0] ?? 'chat';
  if (framing === 'chat') return { framing };
  return { framing, prompt: framing === 'alpaca' ? alpacaPrompt(slot, '') : slot };
}

/** Where the prompt stands in `RunContract.prompt`. */
const slot = '{prompt}';

/** What framing prompts and ending answers take. */
export interface PromptCodec {
  tokenizer: Tokenizer;
  /** Absent where there is none: only plain text can be read and continued. */
  template?: ChatTemplate;
  /** What was trained; absent for a model that says nothing of it. */
  contract?: RunContract;
  /** generation_config.json, where there is one: it may name more ends than config.json. */
  generationConfig?: JsonObject;
}

/**
 * Token ids of a conversation with the beginning of the next assistant turn, framed as the training rows were. An instruction and a text to
 * be continued are the last message alone, as every row of such data was; a system message stands where a row's `system` column did. Throws
 * where the rows had no place for it, and where a chat template is needed and there is none.
 */
export function chatPrompt(codec: PromptCodec, messages: readonly Message[], place?: string): number[] {
  const { framing = 'chat', prompt = slot } = codec.contract ?? {};
  if (framing === 'chat') return conversationPrompt(codec, messages, place);
  const content = String(messages.at(-1)?.content ?? '');
  const system = messages.find(({ role }) => role === 'system')?.content;
  if (system === undefined || system === '') return textPrompt(codec, prompt.split(slot).join(content), place);
  if (framing === 'alpaca' && codec.contract?.datasets.some(({ type, read }) => type === 'alpaca' && read.includes('system')))
    return textPrompt(codec, alpacaPrompt(content, '', { system: String(system) }), place);
  const [rows, train] =
    framing === 'alpaca' ? ['instructions without a column "system"', ', or train rows that have one'] : ['texts to be continued', ''];
  throw new LowrankError(`a system message has no place: the training rows were ${rows}`, {
    place,
    mend: `leave it out and begin the prompt with what it says${train}`,
  });
}

function conversationPrompt({ tokenizer, template }: PromptCodec, messages: readonly Message[], place?: string): number[] {
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
export function textPrompt({ tokenizer }: PromptCodec, text: string, place?: string): number[] {
  const ids = [...tokenizer.prefixIds, ...tokenizer.encode(text)];
  refuseDoubleBos(tokenizer, ids, place ?? 'prompt');
  return ids;
}

/**
 * The tokens that supervised runs of labels end with, where they are special or named as `eot_tokens`; white space that closes a turn does
 * not count. A token whose policy is `none` in all data sets was not taught, however a run ends.
 */
export function supervisedTerminators(
  tokenizer: Tokenizer,
  examples: Iterable<Example>,
  datasets: readonly Pick<DatasetOptions, 'train_on_eos' | 'train_on_eot'>[],
  eotTokens: readonly string[] = [],
): RunContract['terminators'] {
  const named = new Set(eotTokens.map((token) => tokenizer.tokenToId(token)));
  const taught = (id: number) =>
    datasets.some(({ train_on_eos: eos = 'turn', train_on_eot: eot = eos }) => (id === tokenizer.eosTokenId ? eos : eot) !== 'none');
  const kinds = new Map<number, 'end' | 'blank' | 'text'>();
  const kindOf = (id: number) => {
    let kind = kinds.get(id);
    if (kind === undefined) {
      kind = tokenizer.isSpecial(id) || named.has(id) ? 'end' : tokenizer.decode([id]).trim() === '' ? 'blank' : 'text';
      kinds.set(id, kind);
    }
    return kind;
  };
  const found = new Set<number>();
  for (const { sequences } of examples) {
    for (const { labels } of sequences) {
      for (let t = labels.length - 1; t > 0; t--) {
        if (labels[t] === -100 || (t + 1 < labels.length && labels[t + 1] !== -100)) continue;
        let end = t;
        while (end > 0 && labels[end] !== -100 && kindOf(labels[end]) === 'blank') end--;
        if (labels[end] !== -100 && kindOf(labels[end]) === 'end' && taught(labels[end])) found.add(labels[end]);
      }
    }
  }
  return [...found].sort((a, b) => a - b).map((id) => ({ id, token: tokenizer.decode([id]) }));
}

/** A moment as a contract's `clock` has it: local time to the second, without its zone. */
export function clockText(date: Date): string {
  const two = (n: number) => String(n).padStart(2, '0');
  const day = `${String(date.getFullYear()).padStart(4, '0')}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day}T${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
