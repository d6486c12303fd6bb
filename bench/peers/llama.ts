/**
 * Greedy generation by llama.cpp through node-llama-cpp: each request is answered with the seconds of one token, `{ about: true }` with the
 * build of its kernels that runs. The only argument is a LlamaRun as JSON.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { serve } from '../contender.js';

export interface LlamaRun {
  /** Where node-llama-cpp is installed. */
  packages: string;
  model: string;
  threads: number;
  prompt: number[];
  tokens: number;
}

/** What is used of node-llama-cpp, which is no dependency of this project. */
interface Library {
  getLlama(options: object): Promise<{
    loadModel(options: object): Promise<{
      createContext(options: object): Promise<{
        getSequence(): {
          clearHistory(): Promise<void>;
          evaluate(tokens: readonly number[], options: object): AsyncIterable<number>;
        };
      }>;
    }>;
  }>;
}

const run = JSON.parse(process.argv[2]) as LlamaRun;
const { getLlama } = (await import(pathToFileURL(join(run.packages, 'node_modules/node-llama-cpp/dist/index.js')).href)) as Library;
const llama = await getLlama({
  gpu: false,
  build: 'never',
  skipDownload: true,
  progressLogs: false,
  logLevel: 'error',
  maxThreads: run.threads,
});
const model = await llama.loadModel({ modelPath: run.model });
const context = await model.createContext({ contextSize: run.prompt.length + run.tokens + 1, threads: run.threads });
const sequence = context.getSequence();

/** `haswell`, `zen4` …: of what is loaded into this process. */
function buildInUse(): string {
  try {
    return /libggml-cpu-(\w+)\.so/.exec(readFileSync('/proc/self/maps', 'utf8'))?.[1] ?? 'unknown';
  } catch {
    return 'unknown';
  }
}

await serve(async ({ about }: { about?: boolean }) => {
  if (about) return { build: buildInUse() };
  await sequence.clearHistory();
  const times: number[] = [];
  const ids: number[] = [];
  for await (const id of sequence.evaluate(run.prompt, { temperature: 0, yieldEogToken: true })) {
    times.push(performance.now());
    ids.push(id);
    if (ids.length === run.tokens) break;
  }
  return { seconds: (times[times.length - 1] - times[0]) / 1000 / (times.length - 1), ids };
});
// It keeps threads that would hold the process.
process.exit(0);
