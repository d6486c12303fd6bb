import { refuseDoubleBos } from './chat.js';
import type { ChatTemplate } from './chat-template.js';
import { type DatasetOptions, type DatasetType, detectType, readSample, type Sample } from './formats/index.js';
import { label } from './labelling.js';
import type { Row } from './rows.js';
import type { Tokenizer } from './tokenizer.js';
import { readableToolCalls } from './tool-calls.js';

/** What a test row asks and the answer that it holds. */
export interface Question {
  promptIds: number[];
  answer: string;
  /** What a person would read as the question. */
  question: string;
  /** `file:line` */
  row: string;
}

/** The last trained turn of each row as a question. Rows that hold none, such as plain text, are left out. */
export function questionsOf(
  rows: readonly Row[],
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  options: DatasetOptions,
): Question[] {
  let type: DatasetType | undefined;
  return rows.flatMap((row) => {
    type ??= detectType(row, options);
    const question = questionOf(readSample(row, type, options), tokenizer, template, options);
    return question ? [{ ...question, row: row.place }] : [];
  });
}

function questionOf(
  sample: Sample,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  options: DatasetOptions,
): Omit<Question, 'row'> | undefined {
  const asked = upToLastAnswer(sample);
  if (!asked) return undefined;
  const supervision: DatasetOptions = { roles_to_train: ['assistant'], train_on_inputs: false };
  const { inputIds, labels } = label(asked, tokenizer, template, { ...options, ...supervision });
  const found = lastAnswer(tokenizer, inputIds, labels, options);
  if (!found) return undefined;
  const { start, answer } = found;
  const { place } = asked;
  switch (asked.kind) {
    case 'conversation': {
      const messages = template ? readableToolCalls(template, asked.messages, asked.tools) : asked.messages;
      const before = messages.slice(0, -1);
      // What a model is asked with; where the template is sound, training had the same before the answer.
      const text = template?.render(before, { tools: asked.tools, place, addGenerationPrompt: true }).text ?? '';
      const promptIds = tokenizer.encode(text);
      refuseDoubleBos(tokenizer, promptIds, place);
      return { promptIds, answer, question: String(before.findLast(({ role }) => role === 'user')?.content ?? '') };
    }
    case 'text':
      return { promptIds: [...tokenizer.prefixIds, ...tokenizer.encode(asked.prompt)], answer, question: asked.prompt };
    case 'tokens': {
      const promptIds = inputIds.slice(0, start);
      return { promptIds, answer, question: tokenizer.decode(promptIds) };
    }
  }
}

/** A sample that ends with its last trained answer; undefined where it has none, as a text without a prompt. */
function upToLastAnswer(sample: Sample): Sample | undefined {
  if (sample.kind === 'text') return sample.prompt === '' ? undefined : sample;
  if (sample.kind === 'tokens') return sample;
  const { messages, train } = sample;
  const last = messages.findLastIndex(({ role, content }, i) => role === 'assistant' && typeof content === 'string' && train[i] !== false);
  return last < 0 ? undefined : { ...sample, messages: messages.slice(0, last + 1), train: [] };
}

/**
 * The text of the last supervised run that says anything, which is what a perfect model writes: with what the template puts around a
 * message, and without special tokens and `eot_tokens`, which answers do not show either.
 */
function lastAnswer(
  tokenizer: Tokenizer,
  inputIds: readonly number[],
  labels: readonly number[],
  { eot_tokens = [] }: DatasetOptions,
): { start: number; answer: string } | undefined {
  const ends = new Set(eot_tokens.map((token) => tokenizer.tokenToId(token)));
  let found: { start: number; answer: string } | undefined;
  for (let end = labels.length; end > 0; ) {
    if (labels[end - 1] === -100) {
      end--;
      continue;
    }
    let start = end - 1;
    while (start > 1 && labels[start - 1] !== -100) start--;
    const ids = inputIds.slice(start, end).filter((id) => !ends.has(id));
    const run = { start, answer: tokenizer.decode(ids, { skipSpecialTokens: true }) };
    if (run.answer.trim() !== '') return run;
    found ??= run;
    end = start;
  }
  return found;
}
