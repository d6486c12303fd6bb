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
  /** How long an input that failed may take when it is tried again alone; default 30. */
  patience?: number;
  /** Failures after which it ends; default 20. */
  most?: number;
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
/** Seconds of processor time after which an input is looked at, and after which it hangs. */
const [patience, hangs] = [2.5, 2];
/** Bytes by which one input may grow a process. */
const growthLimit = 300e6;

/** Runs inputs in a process that is watched from here, until the time or the number is reached, and gathers what went wrong. */
export async function fuzz(options: FuzzOptions): Promise<Report> {
  const { kind, seed, seconds = Number.POSITIVE_INFINITY, inputs = Number.MAX_SAFE_INTEGER, module = './targets.js', most = 20 } = options;
  const again = options.patience ?? 30;
  const folder = mkdtempSync(join(tmpdir(), 'lowrank-fuzz-'));
  const current = join(folder, 'current');
  const until = Date.now() + seconds * 1000;
  const report: Report = { inputs: 0, parsed: 0, kept: 0, places: 0, failures: [] };
  const task = { module, kind, seed, to: inputs, until: Math.min(until, Number.MAX_SAFE_INTEGER), current };
  const known = new Set<string>();
  const fail = (what: Failure['what'], detail: string, input: Uint8Array, group = detail) => {
    if (known.has(what + group) || report.failures.length >= most) return;
    known.add(what + group);
    report.failures.push({ what, detail, input: saveInput(options, report.failures.length, input) });
  };
  // What took long among others may have waited for the machine: what it costs alone decides.
  const judge = ({ end, cpuSeconds, growth }: Replay, input: Uint8Array, index: number) => {
    if (end === 'hung') fail('hang', `no end within ${again} s of processor time`, input, String(index));
    else if (end === 'died') fail('memory', 'does not fit 350 MB', input, String(index));
    else if (cpuSeconds > hangs) fail('hang', `${cpuSeconds.toFixed(1)} s of processor time`, input, String(index));
    else if (growth > growthLimit) fail('memory', `${Math.round(growth / 1e6)} MB more`, input, String(index));
  };
  try {
    let replaying: Promise<void> = Promise.resolve();
    const enough = () => report.failures.length >= most;
    for (let from = 0; from < inputs && Date.now() < until && !enough(); ) {
      const outcome = await watchOnce({ ...task, from }, report, enough, async (message) => {
        const input = Buffer.from(message.input, 'base64');
        report.inputs = Math.max(report.inputs, message.index + 1);
        if (message.type === 'raw') fail('raw exception', `${message.message}\n${message.stack}`, input, firstFrames(message.stack));
        // One at a time: each may take much memory.
        else
          await (replaying = replaying.then(
            async () => void (enough() || judge(await replayInput(task, input, again), input, message.index)),
          ));
      });
      if (outcome === undefined) break;
      const input = readFileSync(current);
      const { index } = deserialize(input) as { index: number };
      from = index + 1;
      report.inputs = Math.max(report.inputs, from);
      if (outcome === 'hung') judge(await replayInput(task, input, again), input, index);
      else fail('death', outcome, input, String(index));
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
  enough: () => boolean,
  onFailure: (message: WorkerMessage & { type: 'raw' | 'memory' }) => Promise<void>,
): Promise<string | undefined> {
  const child = startWorker(task, 2048);
  const before = { inputs: task.from, parsed: report.parsed };
  const pending: Promise<void>[] = [];
  let [ended, hung] = [false, false];
  child.on('message', (message: WorkerMessage) => {
    if (message.type === 'end') ended = true;
    else if (message.type === 'progress') {
      const { inputs, parsed, kept, places } = message;
      Object.assign(report, { inputs: before.inputs + inputs, parsed: before.parsed + parsed, kept, places });
    } else if (message.type !== 'replayed') pending.push(onFailure(message));
  });
  let [begun, spent] = [0, 0];
  const watch = setInterval(() => {
    const written = statSync(task.current, { throwIfNoEntry: false })?.mtimeMs;
    if (ended || written === undefined) return;
    const gone = (Date.now() - written) / 1000;
    const now = processorSeconds(child.pid, gone);
    if (written !== begun) [begun, spent] = [written, now];
    if (now - spent < patience && gone < 30 * patience && !enough()) return;
    hung = !enough();
    ended = enough();
    child.kill('SIGKILL');
  }, 250);
  const death = await ending(child);
  clearInterval(watch);
  await Promise.all(pending);
  return ended ? undefined : hung ? 'hung' : death;
}

/** What one input costs and throws alone. */
export interface Replay {
  end: 'ended' | 'hung' | 'died';
  cpuSeconds: number;
  growth: number;
  raw?: string;
}

let replays = 0;

/** The input in a process of its own, with little memory and so many seconds of processor time. */
async function replayInput(task: Omit<WorkerTask, 'from'>, input: Uint8Array, seconds = 30): Promise<Replay> {
  const replay = `${task.current}.${replays++}`;
  writeFileSync(replay, input);
  const child = startWorker({ ...task, from: 0, replay }, 350);
  let found: Omit<Replay, 'end'> | undefined;
  child.on('message', (message: WorkerMessage) => {
    if (message.type === 'replayed') found = message;
  });
  const began = Date.now();
  let hung = false;
  const watch = setInterval(() => {
    if (processorSeconds(child.pid, (Date.now() - began) / 1000) < seconds) return;
    hung = true;
    child.kill('SIGKILL');
  }, 250);
  await ending(child);
  clearInterval(watch);
  return found ? { ...found, end: 'ended' } : { cpuSeconds: seconds, growth: 0, end: hung ? 'hung' : 'died' };
}

/** Seconds that a process has computed, where the system says so; else the time that has gone by. */
function processorSeconds(pid: number | undefined, gone: number): number {
  try {
    // Behind the name, which may hold anything: fields 14 and 15 of proc(5), in hundredths.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return gone;
  }
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
