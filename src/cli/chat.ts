import { createInterface } from 'node:readline/promises';
import { AdapterSet } from '../adapters/adapter.js';
import type { Message } from '../data/chat-template.js';
import { chatPrompt } from '../data/contract.js';
import { streamAnswer } from '../generate/text.js';
import type { TextModel } from '../models/text-model.js';
import { messageOf } from '../util/errors.js';
import { definitions, type Terminal } from './console.js';
import { type AnswerOptions, openAnswering, samplingOf } from './generate.js';
import { attachAdapter, codecOf } from './session.js';

const commands = [
  ['/base', 'answer with the base model alone'],
  ['/adapter [DIR]', 'answer with the adapter, or with another one'],
  ['/clear', 'forget the conversation'],
  ['/help', 'this list'],
  ['/exit', 'leave; so does Ctrl-D'],
] as const;

const framingNotes = {
  alpaca: 'trained on instructions in the Alpaca prompt: each message is asked as one, without those before it',
  completion: 'trained on plain text: each message is continued, without those before it',
} as const;

/** `lowrank chat`: a conversation on the terminal; Ctrl-C stops an answer, and leaves at the prompt. */
export async function chatCommand(terminal: Terminal, options: AnswerOptions): Promise<void> {
  const session = await openAnswering(terminal, options);
  const adapters = new AdapterSet();
  let attached = options.adapter;
  const { colors } = terminal;
  // Each adapter frames prompts as it was trained, and so does the base.
  const texts = new Map<string | undefined, TextModel>();
  const current = async (): Promise<TextModel> => {
    const path = adapters.active;
    let text = texts.get(path);
    if (text === undefined) {
      text = { ...(await codecOf(session.source, path)), model: session.text.model };
      texts.set(path, text);
    }
    return text;
  };
  const tellFraming = async () => {
    const { framing = 'chat' } = (await current()).contract ?? {};
    if (framing !== 'chat') terminal.note(framingNotes[framing]);
  };
  const answerWith = async (path: string) => {
    const before = adapters.active;
    try {
      adapters.activate();
      if (!adapters.has(path)) adapters.add(path, await attachAdapter(terminal, session, path));
      adapters.activate(path);
      attached = path;
      await tellFraming();
    } catch (error) {
      adapters.activate(before);
      throw error;
    }
  };
  const beginning = (): Message[] => (options.system === undefined ? [] : [{ role: 'system', content: options.system }]);
  let messages = beginning();
  const command = async (line: string) => {
    const [name, ...rest] = line.split(/\s+/);
    if (name === '/base') {
      adapters.activate();
      return terminal.note('answers come from the base model');
    }
    if (name === '/adapter') {
      const path = rest.join(' ') || attached;
      if (path === undefined) return terminal.note('there is no adapter: /adapter DIR');
      await answerWith(path);
      return terminal.note(`answers come from the base model with ${path}`);
    }
    if (name === '/clear') {
      messages = beginning();
      return terminal.note('forgotten');
    }
    terminal.note(definitions(commands, terminal.width));
  };

  let answering: AbortController | undefined;
  try {
    if (options.adapter === undefined) await tellFraming();
    else await answerWith(options.adapter);
    terminal.note(`${session.source.name}${attached ? ` with ${attached}` : ''}; /help lists the commands`);
    // Created only now: lines that arrive before the loop listens would be lost.
    const lines = createInterface({ input: process.stdin, output: process.stderr, terminal: process.stdin.isTTY === true });
    let closed = false;
    const prompt = () => !closed && lines.prompt();
    lines.on('close', () => {
      // Ctrl-C and Ctrl-D leave in the middle of a line, which the shell would write on.
      if (!closed && lines.terminal) process.stderr.write('\n');
      closed = true;
    });
    lines.on('SIGINT', () => (answering ? answering.abort() : lines.close()));
    lines.setPrompt(colors.bold('> '));
    prompt();
    for await (const line of lines) {
      const text = line.trim();
      if (text === '/exit') {
        closed = true;
        break;
      }
      try {
        if (text.startsWith('/')) await command(text);
        else if (text !== '') {
          messages.push({ role: 'user', content: text });
          answering = new AbortController();
          const model = await current();
          const ids = chatPrompt(model, messages);
          const show = (piece: string) => process.stdout.write(piece);
          const answer = await streamAnswer(model, ids, { ...samplingOf(options), signal: answering.signal }, show);
          process.stdout.write('\n');
          messages.push({ role: 'assistant', content: answer.text });
        }
      } catch (error) {
        if (answering?.signal.aborted) process.stdout.write('\n');
        else terminal.note(messageOf(error));
        // Whoever pipes questions in learns that one has no answer.
        if (answering && !answering.signal.aborted) process.exitCode = 1;
        if (messages.at(-1)?.role === 'user') messages.pop();
      }
      answering = undefined;
      prompt();
    }
    lines.close();
  } finally {
    adapters.dispose();
    await session.close();
  }
}
