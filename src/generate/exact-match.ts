import type { Question } from '../data/questions.js';
import { type AnsweringModel, answerTexts } from './text.js';

export interface ExactMatch {
  /** The share of answers that equal the expected text, white space at both ends apart; 0 to 1. */
  exact_match: number;
  answers: string[];
}

export interface ExactMatchOptions {
  max_new_tokens: number;
  /** Answers generated together. */
  batch: number;
  /**
   * An answer is given up where it can no longer be equal, except for the first so many: those are generated to their ends. Default: all.
   */
  whole?: number;
  signal?: AbortSignal;
  onProgress?: (done: number, total: number) => void;
}

/** Answers every question greedily and compares. */
export async function exactMatch(text: AnsweringModel, questions: readonly Question[], options: ExactMatchOptions): Promise<ExactMatch> {
  const { batch, onProgress, whole = questions.length, ...rest } = options;
  const answers: string[] = [];
  // Prompts of similar length share a cache of little waste.
  const order = [...questions.keys()].sort((a, b) => questions[a].promptIds.length - questions[b].promptIds.length);
  for (let i = 0; i < order.length; i += batch) {
    const part = order.slice(i, i + batch);
    const decoders = part.map(() => text.tokenizer.createDecoder());
    const begun = part.map(() => '');
    const onToken = (answer: number, id: number) => {
      begun[answer] += decoders[answer].push(id);
      return part[answer] >= whole && !canBecome(begun[answer], questions[part[answer]].answer);
    };
    const prompts = part.map((index) => questions[index].promptIds);
    const texts = await answerTexts(text, prompts, { ...rest, onToken });
    part.forEach((index, j) => {
      answers[index] = texts[j];
    });
    onProgress?.(answers.filter((answer) => answer !== undefined).length, questions.length);
  }
  const equal = questions.filter(({ answer }, i) => answers[i].trim() === answer.trim()).length;
  return { exact_match: questions.length === 0 ? 0 : equal / questions.length, answers };
}

/** Whether a text that begins so can still equal `wanted`, white space at both ends apart. */
function canBecome(begun: string, wanted: string): boolean {
  const [some, all] = [begun.trimStart(), wanted.trim()];
  return all.startsWith(some) || some.trimEnd() === all;
}
