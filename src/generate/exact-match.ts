import type { Question } from '../data/questions.js';
import type { TextModel } from '../models/text-model.js';
import { answerTexts } from './text.js';

export interface ExactMatch {
  /** The share of answers that equal the expected text, white space at both ends apart; 0 to 1. */
  exact_match: number;
  answers: string[];
}

export interface ExactMatchOptions {
  max_new_tokens: number;
  /** Answers generated together. */
  batch: number;
  signal?: AbortSignal;
  onProgress?: (done: number, total: number) => void;
}

/** Answers every question greedily and compares. */
export async function exactMatch(text: TextModel, questions: readonly Question[], options: ExactMatchOptions): Promise<ExactMatch> {
  const { batch, onProgress, ...rest } = options;
  const answers: string[] = [];
  // Prompts of similar length share a cache of little waste.
  const order = [...questions.keys()].sort((a, b) => questions[a].promptIds.length - questions[b].promptIds.length);
  for (let i = 0; i < order.length; i += batch) {
    const part = order.slice(i, i + batch);
    const texts = await answerTexts(
      text,
      part.map((index) => questions[index].promptIds),
      rest,
    );
    part.forEach((index, j) => {
      answers[index] = texts[j];
    });
    onProgress?.(answers.filter((answer) => answer !== undefined).length, questions.length);
  }
  const equal = questions.filter(({ answer }, i) => answers[i].trim() === answer.trim()).length;
  return { exact_match: questions.length === 0 ? 0 : equal / questions.length, answers };
}
