import { type ChildProcess, fork } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deserialize, serialize } from 'node:v8';
import type { Files } from './targets.js';
import type { WorkerMessage, WorkerTask } from './worker.js';

export interface FuzzOptions {
  kind: string;
  seed: number;
  /** Either ends it. */
  seconds?: number;
  inputs?: number;
  /** The module that exports `targets`; default: the project's. */
  module?: string;
  /** Where inputs that failed are put, a folder each. */
  failures: string;
  onProgress?: (report: Report) => void;
}

export interface Failure {
  what: 'death' | 'hang' | 'raw exception' | 'memory';
  detail: string;
  /** The folder with the input's files. */
  input: string;
}

export interface Report {
  inputs: number;
  /** Of them, those that got past parsing. */
  parsed: number;
  /** Inputs that led somewhere new, with the seeds; and places of the code that ran. */
  kept: number;
  places: number;
  failures: Failure[];
}

const workerFile = fileURLToPath(new URL('worker.js', import.meta.url));
/** Seconds after which an input is looked at, and of processor time after which it hangs. */
const [patience, hangs] = [2.5, 2];
/** Bytes by which one input may grow a process. */
const growthLimit = 300e6;

/** Runs inputs in a process that is watched from here, until the time or the number is reached, and gathers what went wrong. */
export async function fuzz(options: FuzzOptions): Promise<Report> {
  const { kind, seed, seconds = Number.POSITIVE_INFINITY, inputs = Number.MAX_SAFE_INTEGER, module = './targets.js' } = options;
  const folder = mkdtempSync(join(tmpdir(), 'lowrank-fuzz-'));
  const current = join(folder, 'current');
  const until = Date.now() + seconds * 1000;
  const report: Report = { inputs: 0, parsed: 0, kept: 0, places: 0, failures: [] };
  const task = { module, kind, seed, to: inputs, until: Math.min(until, Number.MAX_SAFE_INTEGER), current };
  const known = new Set<string>();
  const fail = (what: Failure['what'], detail: string, input: Uint8Array, group = detail) => {
    if (known.has(what + group)) return;
    known.add(what + group);
    report.failures.push({ what, detail, input: saveInput(options, report.failures.length, input) });
  };
  try {
    for (let from = 0; from < inputs && Date.now() < until; ) {
      const outcome = await watchOnce({ ...task, from }, report, options, async (message) => {
        const input = Buffer.from(message.input, 'base64');
        if (message.type === 'raw') fail('raw exception', `${message.message}\n${message.stack}`, input, firstFrames(message.stack));
        else {
          const { growth, died } = await replayInput(task, input);
          if (died || growth > growthLimit)
            fail('memory', died ? 'does not fit 350 MB' : `${Math.round(growth / 1e6)} MB more`, input, String(message.index));
        }
      });
      if (outcome === undefined) break;
      const input = readFileSync(current);
      from = (deserialize(input) as { index: number }).index + 1;
      if (outcome === 'hung') {
        const { cpuSeconds, died } = await replayInput(task, input);
        if (died || cpuSeconds > hangs) fail('hang', died ? 'no end within 30 s' : `${cpuSeconds.toFixed(1)} s`, input, String(from));
      } else fail('death', outcome, input, String(from));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return report;
}

/** The lines of a stack that say where something was thrown, without numbers that change with the code around. */
const firstFrames = (stack: string): string => (stack.match(/^ {4}at .*/gm) ?? []).slice(0, 2).join('\n');

/** Runs a worker to its end: undefined, 'hung', or how it died. */
async function watchOnce(
  task: WorkerTask,
  report: Report,
  { onProgress }: FuzzOptions,
  onFailure: (message: WorkerMessage & { type: 'raw' | 'memory' }) => Promise<void>,
): Promise<string | undefined> {
  const child = startWorker(task, 2048);
  const before = { inputs: report.inputs, parsed: report.parsed };
  const pending: Promise<void>[] = [];
  let [ended, hung] = [false, false];
  child.on('message', (message: WorkerMessage) => {
    if (message.type === 'end') ended = true;
    else if (message.type === 'progress') {
      const { inputs, parsed, kept, places } = message;
      Object.assign(report, { inputs: before.inputs + inputs, parsed: before.parsed + parsed, kept, places });
      onProgress?.(report);
    } else if (message.type !== 'replayed') pending.push(onFailure(message));
  });
  const watch = setInterval(() => {
    const written = statSync(task.current, { throwIfNoEntry: false })?.mtimeMs;
    if (written === undefined || Date.now() - written < patience * 1000 || ended) return;
    hung = true;
    child.kill('SIGKILL');
  }, 250);
  const death = await ending(child);
  clearInterval(watch);
  await Promise.all(pending);
  return ended ? undefined : hung ? 'hung' : death;
}

/** The input alone in a process of its own, with little memory and 30 seconds. */
async function replayInput(
  task: Omit<WorkerTask, 'from'>,
  input: Uint8Array,
): Promise<{ cpuSeconds: number; growth: number; died: boolean; raw?: string }> {
  const replay = `${task.current}.replay`;
  writeFileSync(replay, input);
  const child = startWorker({ ...task, from: 0, replay }, 350);
  let found: { cpuSeconds: number; growth: number; raw?: string } | undefined;
  child.on('message', (message: WorkerMessage) => {
    if (message.type === 'replayed') found = message;
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
  await ending(child);
  clearTimeout(timer);
  return found ? { ...found, died: false } : { cpuSeconds: 0, growth: 0, died: true };
}

/** Runs one input out of a folder that a failure left, and says what it did. */
export async function replayFolder(folder: Files, { kind, module = './targets.js' }: Pick<FuzzOptions, 'kind' | 'module'>) {
  const place = mkdtempSync(join(tmpdir(), 'lowrank-fuzz-'));
  try {
    const task = { module, kind, seed: 0, to: 0, until: 0, current: join(place, 'current') };
    return await replayInput(task, serialize({ index: 0, files: folder }));
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
}

function startWorker(task: WorkerTask, megabytes: number): ChildProcess {
  const execArgv = [`--max-old-space-size=${megabytes}`];
  return fork(workerFile, [JSON.stringify(task)], { execArgv, stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
}

const ending = (child: ChildProcess): Promise<string> =>
  new Promise((done) => child.once('exit', (code, signal) => done(signal ? `killed by ${signal}` : `exit ${code}`)));

/** Puts an input's files into a folder. */
function saveInput({ kind, failures, seed }: FuzzOptions, number: number, input: Uint8Array): string {
  const folder = join(failures, `${kind}-${seed}-${number}`);
  mkdirSync(folder, { recursive: true });
  const { files } = deserialize(input) as { files: Files };
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes);
  return folder;
}
