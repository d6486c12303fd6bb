/**
 * Greedy generation by llama.cpp through node-llama-cpp: `{ prompt, tokens }` is answered with so many token ids and the seconds of one,
 * `{ texts }` with their token ids, `{ about: true }` with the build of its kernels that runs. The only argument is a LlamaRun as JSON.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { serve } from '../contender.js';

export interface LlamaRun {
  /** Where node-llama-cpp is installed. */
  packages: string;
  /** A GGUF file. */
  model: string;
  threads: number;
  /** The longest prompt with its answer, in tokens. */
  context: number;
}

interface Request {
  about?: boolean;
  texts?: string[];
  prompt?: number[];
  tokens?: number;
}

/** What is used of node-llama-cpp, which is no dependency of this project. */
interface Library {
  getLlama(options: object): Promise<{
    loadModel(options: object): Promise<{
      tokenize(text: string, specialTokens: boolean): number[];
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
const context = await model.createContext({ contextSize: run.context + 1, threads: run.threads });
const sequence = context.getSequence();

/** `haswell`, `zen4` …: of what is loaded into this process. */
function buildInUse(): string {
  try {
    return /libggml-cpu-(\w+)\.so/.exec(readFileSync('/proc/self/maps', 'utf8'))?.[1] ?? 'unknown';
  } catch {
    return 'unknown';
  }
}

await serve(async ({ about, texts, prompt = [], tokens = 0 }: Request) => {
  if (about) return { build: buildInUse() };
  if (texts) return { ids: texts.map((text) => model.tokenize(text, true)) };
  await sequence.clearHistory();
  const times: number[] = [];
  const ids: number[] = [];
  for await (const id of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    times.push(performance.now());
    ids.push(id);
    if (ids.length === tokens) break;
  }
  return { seconds: (times[times.length - 1] - times[0]) / 1000 / (times.length - 1), ids };
});
// It keeps threads that would hold the process.
process.exit(0);
