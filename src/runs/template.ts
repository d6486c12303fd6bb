import { ChatTemplate } from '../data/chat-template.js';
import { type Checkpoint, readRow } from '../io/checkpoint.js';
import type { ModelSource, ModelTexts } from '../io/model-source.js';
import { familyOf } from '../models/families.js';
import { fallbackPrefix, namedTemplates } from '../models/templates/index.js';
import { openTextCodec, type TextCodec } from '../models/text-model.js';
import { LowrankError } from '../util/errors.js';
import { isObject, type JsonObject, type JsonValue } from '../util/json.js';
import type { RunData } from './data.js';
import type { Host } from './host.js';
import type { Recipe } from './recipe.js';

/** Where a recipe's files are looked for. */
export interface RecipePlace {
  host: Pick<Host, 'openBytes'>;
  near?: string;
}

/** The codec of a run that begins: the model's, with the recipe's special tokens and chat template; `clock` as in `CodecOptions`. */
export async function openRunCodec(texts: ModelTexts, recipe: Recipe, place: RecipePlace, clock?: string): Promise<TextCodec> {
  const source = withSpecialTokens(texts, recipe.special_tokens);
  const codec = openTextCodec(source, { jinja: await recipeTemplate(recipe, source, place), contract: null, clock });
  checkEnd(codec, recipe);
  return codec;
}

/** The text of the template that a recipe asks for; undefined for the model's own. `chat_template_jinja` may be a path, as in Axolotl. */
export async function recipeTemplate(
  { chat_template: choice, chat_template_jinja: jinja, base_model }: Recipe,
  texts: ModelTexts,
  { host, near }: RecipePlace,
): Promise<string | undefined> {
  const refuse = (problem: string, mend: string) => new LowrankError(problem, { place: 'recipe', mend });
  if (choice === 'jinja' && jinja === undefined)
    throw refuse('chat_template is jinja, and there is no chat_template_jinja', 'write the template as chat_template_jinja');
  if (choice !== undefined && choice !== 'jinja' && jinja !== undefined)
    throw refuse(`chat_template is ${choice}, and there is a chat_template_jinja`, 'remove one of them');
  if (jinja !== undefined) {
    // A template without a tag would write nothing of a conversation.
    if (/\{[{%]/.test(jinja)) return jinja;
    const pieces: Uint8Array[] = [];
    for await (const piece of (await host.openBytes(jinja.trim(), 'a chat template in Jinja', { near })).read()) pieces.push(piece);
    return new TextDecoder().decode(await new Blob(pieces as BlobPart[]).arrayBuffer());
  }
  if (choice === undefined) return undefined;
  const own = openTextCodec(texts, { contract: null }).jinja;
  if (own === undefined && choice === 'tokenizer_default')
    throw refuse(
      `chat_template is tokenizer_default, and ${base_model} has no chat template`,
      `write another name: ${Object.keys(namedTemplates).join(', ')}`,
    );
  if (choice === 'tokenizer_default') return undefined;
  if (!choice.startsWith(fallbackPrefix)) return namedTemplates[choice];
  return own === undefined ? namedTemplates[choice.slice(fallbackPrefix.length)] : undefined;
}

/** The texts of a model whose tokenizer has a recipe's special tokens, each of which must be in the vocabulary. */
export function withSpecialTokens<T extends ModelTexts>(texts: T, special: Recipe['special_tokens']): T {
  if (!special) return texts;
  const { tokenizerJson, tokenizerConfig } = texts.tokenizer;
  const codec = openTextCodec(texts, { contract: null });
  const added = (tokenizerJson.added_tokens ?? []) as JsonObject[];
  const contents = Object.values(special).flat();
  const missing = contents.filter((content) => codec.tokenizer.tokenToId(content) === undefined);
  if (missing.length > 0)
    throw new LowrankError(`special_tokens: ${missing.map((content) => JSON.stringify(content)).join(', ')} not in the vocabulary`, {
      place: 'recipe',
      expected: `tokens of ${texts.name}, which has ${list(
        specialTokensOf(codec)
          .slice(0, 12)
          .map((id) => codec.tokenizer.decode([id])),
      )}`,
      mend: 'name one of its tokens; reserved ones serve as well',
    });
  const marked = contents.map((content) => {
    const id = codec.tokenizer.tokenToId(content) as number;
    const known = added.find((token) => token.id === id);
    return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, ...known, special: true };
  });
  const others = added.filter(({ id }) => !marked.some((token) => token.id === id));
  const json = { ...tokenizerJson, added_tokens: [...others, ...marked].sort((a, b) => Number(a.id) - Number(b.id)) as JsonValue[] };
  const config = { ...tokenizerConfig, ...(special as JsonObject) };
  return { ...texts, tokenizer: { ...texts.tokenizer, tokenizerJson: json, tokenizerConfig: config } };
}

const list = (items: readonly string[]) => (items.length === 0 ? 'none' : items.map((item) => JSON.stringify(item)).join(', '));

/** The ids of the special tokens that tokenizer.json marks. */
function specialTokensOf({ tokenizer }: TextCodec): number[] {
  const added = (tokenizer.files.tokenizerJson.added_tokens ?? []) as JsonValue[];
  return added.flatMap((token) => (isObject(token) && token.special === true ? [Number(token.id)] : []));
}

/** What the template writes behind an answer, without white space around it; undefined where it refuses the simplest conversation. */
function endOf(template: ChatTemplate): string | undefined {
  const probe = 'qzanswer';
  try {
    const { text } = template.render([
      { role: 'user', content: 'qzquestion' },
      { role: 'assistant', content: probe },
    ]);
    return text.slice(text.lastIndexOf(probe) + probe.length).trim();
  } catch {
    return undefined;
  }
}

/** The special token that a template ends answers with; undefined where it is none of the vocabulary. */
function endTokenOf({ tokenizer }: TextCodec, template: ChatTemplate, eotTokens: readonly string[] = []): number | undefined {
  const end = endOf(template);
  const [id, ...more] = end ? tokenizer.encode(end) : [];
  return id !== undefined && more.length === 0 && (tokenizer.isSpecial(id) || eotTokens.includes(end as string)) ? id : undefined;
}

/** The named templates whose ends are tokens that the base can learn, as the end of a message. */
function otherTemplates(codec: TextCodec, untrained: ReadonlySet<number> = new Set()): string {
  const usable = Object.entries(namedTemplates).flatMap(([name, text]) => {
    const id = endTokenOf(codec, new ChatTemplate(text, { specialTokens: codec.tokenizer.specialTokens }));
    return id === undefined || untrained.has(id) ? [] : [name];
  });
  return usable.length === 0 ? 'train on plain text' : `take a chat template whose end is such a token: ${usable.join(', ')}`;
}

/** Refuses a named template whose end is no token of the vocabulary: a model would have to spell it, and nothing would stop there. */
function checkEnd(codec: TextCodec, { chat_template: choice, eot_tokens, base_model }: Recipe): void {
  if (!codec.template || choice === undefined || endTokenOf(codec, codec.template, eot_tokens) !== undefined) return;
  const end = endOf(codec.template);
  // A model's own template may do as it likes; its rows are looked at one by one.
  if (!end || choice === 'jinja' || codec.jinja === codec.tokenizer.chatTemplate) return;
  const ids = codec.tokenizer.encode(end);
  const is = ids.length === 1 ? 'no special token' : `no token but ${ids.length} pieces of text`;
  throw new LowrankError(`chat_template ${choice} ends answers with "${end}", which for ${base_model} is ${is}`, {
    place: 'recipe',
    expected: 'a token of its own, at which answers stop',
    mend: ids.length === 1 ? `write eot_tokens: ["${end}"]` : otherTemplates(codec),
  });
}

/**
 * What is to be said of the end of a chat template whose rows in the embedding or the head were never trained and stay as they are: an end
 * that cannot be learnt.
 */
export async function endWarnings(recipe: Recipe, source: ModelSource, codec: TextCodec, { statistics }: RunData): Promise<string[]> {
  const chats = statistics.some(({ statistics: { type, examples } }) => type === 'chat_template' && examples > 0);
  const end = chats && codec.template ? endTokenOf(codec, codec.template, recipe.eot_tokens) : undefined;
  const untrained = end === undefined ? new Set<number>() : await untrainedTokens(recipe, source, codec);
  if (end === undefined || !untrained.has(end)) return [];
  return [
    `the chat template ends answers with "${codec.tokenizer.decode([end])}", whose embedding was never trained and stays as it is: ` +
      `write lora_modules_to_save: [${modulesOf(source).join(', ')}], or ${otherTemplates(codec, untrained)}`,
  ];
}

/** The modules that hold the rows of tokens: the embedding, and the head where it is not the same matrix. */
function modulesOf({ config, name, checkpoint }: ModelSource): string[] {
  const { embedding, head } = familyOf(config, name).paths;
  return [embedding, head].filter((path) => checkpoint.tensors.has(`${path}.weight`)).map((path) => path.split('.').at(-1) as string);
}

/** More reserved tokens than this are not compared. */
const mostCompared = 512;

/**
 * Special tokens that training leaves as they are and whose rows are all zeros, or those of another special token: published bases keep
 * such rows for tokens that only their chat models use. None where a matrix is not stored row by row.
 */
async function untrainedTokens(recipe: Recipe, source: ModelSource, codec: TextCodec): Promise<Set<number>> {
  const saved = recipe.lora_modules_to_save ?? [];
  const found = new Set<number>();
  if (recipe.adapter === 'full') return found;
  const { embedding, head } = familyOf(source.config, source.name).paths;
  for (const path of [embedding, head]) {
    if (saved.some((name) => path === name || path.endsWith(`.${name}`))) continue;
    for (const id of await equalRows(source.checkpoint, `${path}.weight`, specialTokensOf(codec).slice(0, mostCompared))) found.add(id);
  }
  return found;
}

/** Of these rows of a stored matrix those that are zero or equal to another. */
async function equalRows({ tensors }: Checkpoint, name: string, ids: readonly number[]): Promise<number[]> {
  const stored = tensors.get(name);
  if (!stored) return [];
  const byContent = new Map<string, number[]>();
  const found: number[] = [];
  for (const id of ids) {
    const row = id < stored.shape[0] ? await readRow(stored, id) : undefined;
    if (!row) continue;
    if (row.every((value) => value === 0)) found.push(id);
    else byContent.set(row.join(), [...(byContent.get(row.join()) ?? []), id]);
  }
  return found.concat(...[...byContent.values()].filter((same) => same.length > 1));
}
