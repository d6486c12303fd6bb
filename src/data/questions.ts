import { LowrankError } from '../util/errors.js';
import { refuseDoubleBos } from './chat.js';
import type { ChatTemplate } from './chat-template.js';
import { type DatasetOptions, type DatasetType, detectType, readSample, type Sample } from './formats.js';
import type { Row } from './rows.js';
import type { Tokenizer } from './tokenizer.js';

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
    const question = questionOf(readSample(row, type, options), tokenizer, template);
    return question ? [{ ...question, row: row.place }] : [];
  });
}

function questionOf(sample: Sample, tokenizer: Tokenizer, template: ChatTemplate | undefined): Omit<Question, 'row'> | undefined {
  const { place } = sample;
  if (sample.kind === 'conversation') {
    const { messages, tools } = sample;
    const last = messages.findLastIndex(({ role, content }) => role === 'assistant' && typeof content === 'string');
    if (last < 0) return undefined;
    if (!template)
      throw new LowrankError('the base model has no chat template, and the data set holds conversations', {
        place,
        mend: 'give one as chat_template_jinja, or take a model that was trained for chats',
      });
    const { text } = template.render(messages.slice(0, last), { tools, place, addGenerationPrompt: true });
    const promptIds = tokenizer.encode(text);
    refuseDoubleBos(tokenizer, promptIds, place);
    const asked = messages.slice(0, last).findLast(({ role }) => role === 'user');
    return { promptIds, answer: String(messages[last].content), question: String(asked?.content ?? '') };
  }
  if (sample.kind === 'text') {
    const { prompt, completion } = sample;
    if (prompt === '') return undefined;
    return { promptIds: [...tokenizer.prefixIds, ...tokenizer.encode(prompt)], answer: completion, question: prompt };
  }
  const labels = sample.labels.map(Number);
  const ids = sample.inputIds.map(Number);
  const first = labels.findIndex((label, t) => t > 0 && label !== -100);
  if (first < 0) return undefined;
  const answer = tokenizer.decode(ids.slice(first), { skipSpecialTokens: true });
  return { promptIds: ids.slice(0, first), answer, question: tokenizer.decode(ids.slice(0, first)) };
}
