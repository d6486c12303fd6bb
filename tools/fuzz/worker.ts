/**
 * The process in which inputs run. Before each it writes the input to a file, so that the one that watches it knows what it died or hung
 * of. Arguments: JSON of WorkerTask.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { deserialize, serialize } from 'node:v8';
import { runInput, Session } from './session.js';
import type { Target } from './targets.js';

export interface WorkerTask {
  /** The module that exports `targets`. */
  module: string;
  kind: string;
  seed: number;
  /** Numbers of the inputs, or for `replay` one file that holds the input. */
  from: number;
  to: number;
  /** Milliseconds since 1970. */
  until: number;
  /** Where the current input is written, with its number. */
  current: string;
  replay?: string;
}

/** What a worker says. */
export type WorkerMessage =
  | { type: 'raw'; index: number; message: string; stack: string; input: string }
  | { type: 'memory'; index: number; bytes: number; input: string }
  | { type: 'progress'; index: number; inputs: number; parsed: number; kept: number; places: number }
  | { type: 'replayed'; cpuSeconds: number; growth: number; raw?: string }
  | { type: 'end' };

/** Memory that is held after one input and was not before: a reason to look closer. */
const suspicious = 150e6;

const task: WorkerTask = JSON.parse(process.argv[2]);
const say = (message: WorkerMessage) => new Promise<void>((done) => process.send?.(message, undefined, undefined, () => done()));

async function findTarget(): Promise<Target> {
  const { targets } = await import(task.module.startsWith('.') ? task.module : pathToFileURL(task.module).href);
  return (targets as Record<string, Target>)[task.kind];
}

/** One input alone: what it costs and throws. */
async function replay(target: Target, file: string): Promise<void> {
  await runInput(target, target.seeds()[0]);
  const files = deserialize(readFileSync(file)).files;
  const [cpu, rss] = [process.cpuUsage(), process.memoryUsage.rss()];
  const { raw } = await runInput(target, files);
  const { user, system } = process.cpuUsage(cpu);
  const growth = process.resourceUsage().maxRSS * 1024 - rss;
  const text = raw instanceof Error ? (raw.stack ?? raw.message) : raw === undefined ? undefined : String(raw);
  await say({ type: 'replayed', cpuSeconds: (user + system) / 1e6, growth, raw: text });
}

async function fuzz(target: Target): Promise<void> {
  const session = new Session(target, task.seed);
  let [inputs, parsed, told] = [0, 0, Date.now()];
  const progress = (index: number) => say({ type: 'progress', index, inputs, parsed, kept: session.kept, places: session.places });
  let index = task.from;
  for (; index < task.to && Date.now() < task.until; index++) {
    const files = session.input(index);
    const input = serialize({ index, files });
    writeFileSync(`${task.current}.new`, input);
    renameSync(`${task.current}.new`, task.current);
    const before = process.memoryUsage.rss();
    const ending = await session.run(files);
    inputs++;
    if (ending.parsed) parsed++;
    const grown = process.memoryUsage.rss() - before;
    if (grown > suspicious) await say({ type: 'memory', index, bytes: grown, input: input.toString('base64') });
    if (ending.raw !== undefined) {
      const error = ending.raw instanceof Error ? ending.raw : new Error(String(ending.raw));
      await say({
        type: 'raw',
        index,
        message: `${error.name}: ${error.message}`,
        stack: error.stack ?? '',
        input: input.toString('base64'),
      });
    }
    if (Date.now() - told > 500) {
      await progress(index);
      told = Date.now();
    }
  }
  await progress(index - 1);
  await say({ type: 'end' });
}

const target = await findTarget();
await (task.replay === undefined ? fuzz(target) : replay(target, task.replay));
process.disconnect?.();
process.exit(0);
