import type { Message } from '../data/chat-template.js';
import { chatPrompt, textPrompt } from '../data/contract.js';
import { streamAnswer } from '../generate/text.js';
import type { Session } from '../runs/session.js';
import { LowrankError } from '../util/errors.js';
import { counted } from '../util/format.js';
import { type Terminal, thousands } from './console.js';
import { interruptible } from './interrupt.js';
import { attachAdapter, codecOf, findBase, findModel, openSession } from './session.js';

/** Options of `generate` and `chat`; the sampling ones have transformers' names. */
export interface AnswerOptions {
  json?: boolean;
  device?: string;
  model?: string;
  adapter?: string;
  system?: string;
  maxNewTokens: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  stop: string[];
  seed: number;
}

export interface GenerateOptions extends AnswerOptions {
  raw?: boolean;
}

/** The model that the options name, or that their adapter was trained on. */
export async function openAnswering(terminal: Terminal, { model, adapter, device }: AnswerOptions): Promise<Session> {
  if (model === undefined && adapter === undefined) {
    throw new LowrankError('there is no model', {
      place: 'command line',
      mend: 'name one with --model, or an adapter with --adapter',
    });
  }
  const source = await (model === undefined ? findBase(terminal, adapter!) : findModel(terminal, model));
  return openSession(terminal, source, await codecOf(source, adapter), { device });
}

/** The sampling options as the generator takes them. */
export function samplingOf(options: AnswerOptions) {
  return {
    max_new_tokens: options.maxNewTokens,
    temperature: options.temperature,
    top_k: options.topK,
    top_p: options.topP,
    min_p: options.minP,
    repetition_penalty: options.repetitionPenalty,
    stop: options.stop,
    seed: options.seed,
  };
}

/** `lowrank generate [PROMPT]`: one answer, streamed to standard output. */
export async function generateCommand(terminal: Terminal, words: string[], options: GenerateOptions): Promise<void> {
  const prompt = words.length > 0 ? words.join(' ') : await readStandardInput();
  const session = await openAnswering(terminal, options);
  try {
    const adapter = options.adapter === undefined ? undefined : await attachAdapter(terminal, session, options.adapter);
    const messages: Message[] = [{ role: 'user', content: prompt }];
    if (options.system !== undefined) messages.unshift({ role: 'system', content: options.system });
    const ids = options.raw ? textPrompt(session.text, prompt) : chatPrompt(session.text, messages);
    const show = options.json ? () => {} : (piece: string) => process.stdout.write(piece);
    const start = performance.now();
    const answer = await interruptible(terminal, 'stopping', (signal) =>
      streamAnswer(session.text, ids, { ...samplingOf(options), signal }, show),
    );
    const seconds = (performance.now() - start) / 1000;
    const tokens_per_second = answer.ids.length / seconds;
    const { text, finish } = answer;
    if (!options.json) process.stdout.write('\n');
    terminal.result({ text, finish, prompt_tokens: ids.length, tokens: answer.ids.length, tokens_per_second }, '');
    terminal.note(
      terminal.colors.dim(`${counted(answer.ids.length, 'token')}, ${thousands(tokens_per_second)} tokens/s, ended by ${finish}`),
    );
    adapter?.dispose();
  } finally {
    await session.close();
  }
}

async function readStandardInput(): Promise<string> {
  if (process.stdin.isTTY)
    throw new LowrankError('there is no prompt', {
      place: 'command line',
      mend: 'write it after the options, or pipe it in',
    });
  const parts: Buffer[] = [];
  for await (const part of process.stdin) parts.push(part as Buffer);
  const text = Buffer.concat(parts).toString('utf8').trim();
  if (text === '')
    throw new LowrankError('the prompt is empty', {
      place: 'command line',
      mend: 'write it after the options, or pipe it in',
    });
  return text;
}
