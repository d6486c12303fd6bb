import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

type Answer = Record<string, unknown>;

/**
 * A process that is measured: it reads one JSON request per line and answers each with one JSON line. Several live at the same time and
 * take turns, so that whatever the machine does besides falls on all of them alike.
 */
export class Contender {
  readonly name: string;
  private readonly child: ChildProcess;
  private waiting?: { resolve: (answer: Answer) => void; reject: (error: Error) => void };
  private problem?: Error;

  constructor(name: string, command: string, parameters: string[], environment: Record<string, string> = {}) {
    this.name = name;
    this.child = spawn(command, parameters, { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, ...environment } });
    createInterface({ input: this.child.stdout! }).on('line', (line) => {
      // Whatever a library prints on its own is no answer.
      if (line.startsWith('{')) this.waiting?.resolve(JSON.parse(line));
      else console.error(line);
    });
    this.child.stdin?.on('error', () => {});
    this.child.on('error', (error) => this.fail(error));
    this.child.on('exit', (code, signal) => this.fail(new Error(`${name} ended with ${signal ?? `code ${code}`}`)));
  }

  private fail(error: Error): void {
    this.problem ??= error;
    this.waiting?.reject(this.problem);
  }

  ask<T>(request: object): Promise<T> {
    if (this.problem) return Promise.reject(this.problem);
    return new Promise<T>((resolve, reject) => {
      this.waiting = { resolve: resolve as (answer: Answer) => void, reject };
      this.child.stdin?.write(`${JSON.stringify(request)}\n`);
    });
  }

  async close(): Promise<void> {
    const ended = this.problem ? Promise.resolve() : new Promise((done) => this.child.once('exit', done));
    this.child.stdin?.end();
    await ended;
  }
}

/** The contender's side: answers each request with what `answer` makes of it, until standard input ends. */
export async function serve(answer: (request: never) => Promise<object>): Promise<void> {
  for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(await answer(JSON.parse(line) as never)));
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
