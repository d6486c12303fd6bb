import { parentPort, workerData } from 'node:worker_threads';
import { ChatTemplate, type PortableTemplate } from '../../data/chat-template.js';
import { type PreparedRows, type PrepareRequest, prepareRows } from '../../data/prepare.js';
import { Tokenizer, type TokenizerFiles } from '../../data/tokenizer.js';
import { type ErrorDetails, LowrankError } from '../../util/errors.js';
import { openNativeEncoder } from './native-encoder.js';

// What a thread of row-workers.ts runs: it answers each request with the rows that came of it, or with the error.

export interface WorkerSetup {
  files: TokenizerFiles;
  embeddingRows: number;
  template: PortableTemplate | undefined;
}

export interface Question {
  id: number;
  request: PrepareRequest;
}

/** An error of ours keeps its parts, which a message between threads would drop. */
export type Answer = { id: number } & ({ rows: PreparedRows } | { error: unknown; explained?: ErrorDetails & { problem: string } });

const { files, embeddingRows, template: portable } = workerData as WorkerSetup;
const tokenizer = new Tokenizer(files, { embeddingRows });
const template = portable && ChatTemplate.from(portable);
const encode = await openNativeEncoder(tokenizer);
const port = parentPort!;

async function answer({ id, request }: Question): Promise<void> {
  try {
    const rows = await prepareRows(request, tokenizer, template, encode);
    port.postMessage({ id, rows } satisfies Answer, [rows.inputIds.buffer as ArrayBuffer, rows.labels.buffer as ArrayBuffer]);
  } catch (error) {
    if (error instanceof LowrankError) {
      const { problem, place, expected, mend } = error;
      port.postMessage({ id, error: undefined, explained: { problem, place, expected, mend } } satisfies Answer);
    } else port.postMessage({ id, error } satisfies Answer);
  }
}

port.on('message', (question: Question) => void answer(question));
