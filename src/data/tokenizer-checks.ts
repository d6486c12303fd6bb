import { LowrankError } from '../util/errors.js';
import { isObject, type JsonObject, type JsonValue } from '../util/json.js';

export const reload = 'take tokenizer.json from the base model again';

/** Larger token ids than this occur in no model, and an array that reaches to them would exhaust memory. */
const maxTokenId = 1 << 24;

const modelTypes = ['BPE', 'Unigram', 'WordPiece', 'WordLevel'];

/** The parts besides the model, and where one of type Sequence keeps those that it consists of. */
const parts = { normalizer: 'normalizers', pre_tokenizer: 'pretokenizers', post_processor: 'processors', decoder: 'decoders' };

const fail = (problem: string, expected?: string) => new LowrankError(problem, { place: 'tokenizer.json', expected, mend: reload });

/**
 * Checks what the engine relies on without checking it: the model's type, vocabulary and merges, the added tokens, and the forms of all
 * other parts. Returns `model`. Throws a LowrankError that says which is wrong.
 */
export function checkTokenizer(tokenizerJson: JsonObject): JsonObject {
  const { model, added_tokens: added = [] } = tokenizerJson;
  if (!isObject(model)) throw fail('it has no object "model"');
  if (!modelTypes.includes(String(model.type)))
    throw fail(`"model.type" is ${JSON.stringify(model.type) ?? 'missing'}; expected ${modelTypes.join(', ')}`);
  const { vocab } = model;
  if (Array.isArray(vocab)) {
    if (vocab.length > maxTokenId) throw fail(`the vocabulary has ${vocab.length} entries`);
    const wrong = vocab.findIndex((entry) => !Array.isArray(entry) || typeof entry[0] !== 'string' || typeof entry[1] !== 'number');
    if (wrong >= 0) throw fail(`vocabulary entry ${wrong} is not a pair of token and score`);
  } else if (isObject(vocab)) {
    for (const [token, id] of Object.entries(vocab)) if (!isTokenId(id)) throw fail(`token ${JSON.stringify(token)} has the id ${id}`);
  } else throw fail('"model.vocab" is missing');
  if (!Array.isArray(added)) throw fail('"added_tokens" is not a list');
  for (const token of added) {
    if (!isObject(token) || !isTokenId(token.id) || typeof token.content !== 'string' || token.content === '') {
      throw fail(`the added token ${JSON.stringify(token)} has no content or no id`);
    }
  }
  checkMerges(model);
  for (const [name, inner] of Object.entries(parts)) checkPart(tokenizerJson[name], `"${name}"`, inner);
  return model;
}

function isTokenId(id: JsonValue | undefined): boolean {
  return typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < maxTokenId;
}

function checkMerges({ merges, type }: JsonObject): void {
  if (type !== 'BPE') return;
  if (!Array.isArray(merges)) throw fail('"model.merges" is not a list');
  const isPair = (merge: JsonValue) =>
    typeof merge === 'string'
      ? merge.includes(' ')
      : Array.isArray(merge) && merge.length === 2 && merge.every((m) => typeof m === 'string');
  const wrong = merges.findIndex((merge) => !isPair(merge));
  if (wrong >= 0) throw fail(`merge ${wrong}, ${JSON.stringify(merges[wrong])?.slice(0, 80)}, is not a pair of tokens`);
}

/** A part is null, or an object with a type; `inner` is the key of those that one of type Sequence consists of. */
function checkPart(part: JsonValue | undefined, place: string, inner: string): void {
  if (part === null || part === undefined) return;
  if (!isObject(part) || typeof part.type !== 'string') throw fail(`${place} has no type`, 'null, or an object with "type"');
  if (part.type === 'Sequence') {
    const list = part[inner];
    if (!Array.isArray(list)) throw fail(`${place} has no list "${inner}"`);
    list.forEach((each, i) => {
      if (each === null) throw fail(`${place}: ${inner}[${i}] is null`);
      checkPart(each, `${place}: ${inner}[${i}]`, inner);
    });
  }
  if (part.type === 'TemplateProcessing') checkTemplate(part.single, place);
  if (part.type === 'BertProcessing' || part.type === 'RobertaProcessing') {
    for (const name of ['cls', 'sep']) {
      const pair = part[name];
      if (!Array.isArray(pair) || typeof pair[0] !== 'string' || !isTokenId(pair[1]))
        throw fail(`${place}: "${name}" is ${JSON.stringify(pair)?.slice(0, 80) ?? 'missing'}`, 'a pair of token and id');
    }
  }
}

/** What stands around one text: tokens, and the text once. */
function checkTemplate(single: JsonValue | undefined, place: string): void {
  const isPiece = (piece: JsonValue) =>
    isObject(piece) &&
    (isObject(piece.SpecialToken) ? typeof piece.SpecialToken.id === 'string' : isObject(piece.Sequence) && piece.Sequence.id === 'A');
  if (!Array.isArray(single) || !single.every(isPiece)) throw fail(`${place}: "single" is no list of special tokens and the sequence A`);
  const texts = single.filter((piece) => isObject(piece) && piece.Sequence !== undefined).length;
  if (texts !== 1) throw fail(`${place}: "single" has the text ${texts} times`, 'once');
}
