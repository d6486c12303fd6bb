import { Worker } from 'node:worker_threads';
import type { ChatTemplate } from '../../data/chat-template.js';
import type { PreparedRows, PrepareRequest, RowWorkers } from '../../data/prepare.js';
import type { Tokenizer } from '../../data/tokenizer.js';
import { LowrankError } from '../../util/errors.js';
import type { Answer, Question, WorkerSetup } from './row-worker.js';

/** The tests run this file from its source, which a thread cannot: it runs what was compiled of it. */
const script = new URL(import.meta.url.endsWith('.ts') ? '../../../dist/io/node/row-worker.js' : './row-worker.js', import.meta.url);

/** Requests that a thread has at once: while the texts of one are encoded, it renders those of the other. */
const requestsPerWorker = 2;

/** Starts threads that turn rows into examples. Each has a tokenizer of its own: Hugging Face's Rust one, where that is installed. */
export async function openRowWorkers(tokenizer: Tokenizer, template: ChatTemplate | undefined, count: number): Promise<RowWorkers> {
  const { files, embeddingRows } = tokenizer;
  const workerData: WorkerSetup = { files, embeddingRows, template: template?.portable() };
  const workers = Array.from({ length: count }, () => new RowWorker(workerData));
  return {
    atOnce: count * requestsPerWorker,
    prepare: (request) => workers.reduce((idlest, worker) => (worker.underWay < idlest.underWay ? worker : idlest)).prepare(request),
    close: async () => {
      await Promise.all(workers.map((worker) => worker.close()));
    },
  };
}

class RowWorker {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, { resolve: (rows: PreparedRows) => void; reject: (error: unknown) => void }>();
  private asked = 0;

  constructor(workerData: WorkerSetup) {
    this.worker = new Worker(script, { workerData });
    this.worker.on('message', (answer: Answer) => this.take(answer));
    this.worker.on('error', (error) => {
      for (const { reject } of this.waiting.values()) reject(error);
    });
  }

  get underWay(): number {
    return this.waiting.size;
  }

  prepare(request: PrepareRequest): Promise<PreparedRows> {
    return new Promise((resolve, reject) => {
      const id = this.asked++;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, request } satisfies Question);
    });
  }

  async close(): Promise<void> {
    await this.worker.terminate();
  }

  private take(answer: Answer): void {
    const waiting = this.waiting.get(answer.id)!;
    this.waiting.delete(answer.id);
    if ('rows' in answer) waiting.resolve(answer.rows);
    else waiting.reject(answer.explained ? new LowrankError(answer.explained.problem, answer.explained) : answer.error);
  }
}
