import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Backend } from '../../src/core/backend.js';
import { scope } from '../../src/core/scope.js';
import { chatPrompt } from '../../src/data/contract.js';
import { exactMatch } from '../../src/generate/exact-match.js';
import { type GenerationOptions, generate } from '../../src/generate/generate.js';
import { answerTexts, streamAnswer } from '../../src/generate/text.js';
import type { CausalLM } from '../../src/nn/model.js';
import { chatml, chatmlTemplate } from '../data/golden.js';
import { openBest } from '../helpers/native.js';
import { tinyLlama } from '../helpers/tiny-llama.js';
import { tinyConfig } from '../helpers/tiny-model.js';

let backend: Backend;
let model: CausalLM;
beforeAll(async () => {
  backend = await openBest();
  model = tinyLlama(backend, tinyConfig);
});
afterAll(() => backend.close());

const options: GenerationOptions = { max_new_tokens: 12, stopIds: new Set() };
const prompts = [[5, 9, 200, 31], [7], [100, 101, 102, 103, 104, 105, 106, 107, 108], [250, 3]];

/** The largest logit after `ids`, without a cache. */
async function next(ids: number[]): Promise<number> {
  const n = ids.length;
  const tokens = { inputIds: Int32Array.from(ids), positions: Int32Array.from(ids.keys()), segments: Int32Array.of(0, n, 0, n) };
  const logits = scope(() => model.logits(model.hidden(tokens)));
  const last = (await logits.toFloat32()).subarray((n - 1) * model.vocabulary);
  logits.dispose();
  return last.indexOf(Math.max(...last));
}

describe('generate', () => {
  test('with a cache and in a batch it gives what whole passes give', async () => {
    const answers = await generate(model, prompts, options);
    for (const [i, prompt] of prompts.entries()) {
      const ids = [...prompt];
      for (let n = 0; n < 12; n++) ids.push(await next(ids));
      expect(answers[i]).toEqual({ ids: ids.slice(prompt.length), finish: 'length' });
    }
  });

  test('a stop id ends its answer and is not part of it; the others go on', async () => {
    const free = await generate(model, prompts, options);
    const stop = free[0].ids[4];
    const answers = await generate(model, prompts, { ...options, stopIds: new Set([stop]) });
    answers.forEach((answer, i) => {
      const end = free[i].ids.indexOf(stop);
      expect(answer).toEqual(end < 0 ? free[i] : { ids: free[i].ids.slice(0, end), finish: 'stop' });
    });
  });

  test('sampling repeats with its seed and changes with it', async () => {
    const sampled = (seed: number) => generate(model, prompts, { ...options, temperature: 1, seed });
    expect(await sampled(1)).toEqual(await sampled(1));
    expect(await sampled(1)).not.toEqual(await sampled(2));
  });

  test('the repetition penalty counts the tokens of the prompt', async () => {
    const prompt = Array.from({ length: 240 }, (_, i) => (i * 7) % 240);
    expect(prompt).toContain(await next(prompt));
    const [{ ids }] = await generate(model, [prompt], { ...options, repetition_penalty: 1e6 });
    expect(ids.filter((id) => prompt.includes(id))).toEqual([]);
    expect(new Set(ids).size).toBe(12);
  });

  test('an answer ends at the longest context', async () => {
    const prompt = Array.from({ length: 505 }, (_, i) => i % 200);
    const [{ ids, finish }] = await generate(model, [prompt], { ...options, max_new_tokens: 50 });
    expect([ids.length, finish]).toEqual([8, 'length']);
  });

  test('no memory stays behind', async () => {
    const before = backend.memory().currentOf.activations;
    await generate(model, prompts, options);
    expect(backend.memory().currentOf.activations).toBe(before);
  });

  test.each<[string, number[][], RegExp]>([
    ['an empty prompt', [[]], /no tokens/],
    ['an unknown id', [[1, 99_999]], /99999/],
    ['a prompt beyond the context', [Array.from({ length: 512 }, () => 1)], /512 tokens/],
  ])('%s is refused', async (_, wrong, message) => {
    await expect(generate(model, wrong, options)).rejects.toThrow(message);
  });

  test('an aborted signal ends it', async () => {
    await expect(generate(model, prompts, { ...options, signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
  });
});

describe('text', () => {
  const text = () => ({ model, tokenizer: chatml, template: chatmlTemplate });
  const prompt = () => chatPrompt(text(), [{ role: 'user', content: 'Hi' }]);

  test('streamed pieces join to the whole answer', async () => {
    const pieces: string[] = [];
    const answer = await streamAnswer(text(), prompt(), { max_new_tokens: 30 }, (piece) => pieces.push(piece));
    expect(pieces.join('')).toBe(answer.text);
    expect([answer.text]).toEqual(await answerTexts(text(), [prompt()], { max_new_tokens: 30 }));
  });

  test('a stop string ends the text before it, and nothing of it is shown', async () => {
    const options = { max_new_tokens: 40, temperature: 1, seed: 3 };
    const whole = (await streamAnswer(text(), prompt(), options, () => {})).text;
    const stop = [...whole].slice(8, 11).join('');
    const pieces: string[] = [];
    const cut = await streamAnswer(text(), prompt(), { ...options, stop: [stop, 'never in it'] }, (piece) => pieces.push(piece));
    expect(cut.text).toBe(whole.slice(0, whole.indexOf(stop)));
    expect(cut.finish).toBe('stop');
    expect(pieces.join('')).toBe(cut.text);
  });

  // The other model says nothing but line ends.
  const speaking = () => ({ ...text(), model: tinyLlama(backend, tinyConfig, 'f32', 11) });

  test('exact match counts equal answers, whatever their order', async () => {
    const questions = ['a', 'a longer question', 'b'].map((content) => ({
      content,
      promptIds: chatPrompt(speaking(), [{ role: 'user', content }]),
    }));
    const answers = await answerTexts(
      speaking(),
      questions.map(({ promptIds }) => promptIds),
      { max_new_tokens: 30 },
    );
    const asked = questions.map(({ content, promptIds }, i) => ({
      promptIds,
      question: content,
      row: `r:${i}`,
      answer: i === 1 ? 'no' : answers[i],
    }));
    const result = await exactMatch(speaking(), asked, { max_new_tokens: 30, batch: 2 });
    expect(result).toEqual({ exact_match: 2 / 3, answers });
    // What can no longer be equal is given up as soon as that shows, but for the first answers.
    const hasty = await exactMatch(speaking(), asked, { max_new_tokens: 30, batch: 2, whole: 1 });
    expect(hasty.exact_match).toBe(2 / 3);
    expect([hasty.answers[0], hasty.answers[2]]).toEqual([answers[0], answers[2]]);
    expect(hasty.answers[1].length).toBeLessThan(answers[1].length);
    expect(answers[1].startsWith(hasty.answers[1])).toBe(true);
    expect((await exactMatch(speaking(), asked, { max_new_tokens: 30, batch: 2, whole: 2 })).answers).toEqual(answers);
  });

  test('white space around an answer does not give it up', async () => {
    const [promptIds] = [prompt()];
    const [answer] = await answerTexts(speaking(), [promptIds], { max_new_tokens: 30 });
    const asked = [{ promptIds, question: 'Hi', row: 'r:1', answer: `\n ${answer} ` }];
    expect(await exactMatch(speaking(), asked, { max_new_tokens: 30, batch: 1, whole: 0 })).toEqual({ exact_match: 1, answers: [answer] });
  });

  test('without a chat template a conversation is refused', () => {
    expect(() => chatPrompt({ tokenizer: chatml }, [{ role: 'user', content: 'Hi' }])).toThrow(/chat template/);
  });
});
