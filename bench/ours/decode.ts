/**
 * Greedy generation of ours: each request is answered with the seconds of one token, `{ about: true }` with the bytes of weights that a
 * token reads. The only argument is a DecodeRun as JSON.
 */
import { openCpuBackend } from '#lowrank/backends/cpu/index.js';
import type { Tensor } from '#lowrank/core/tensor.js';
import { generate } from '#lowrank/generate/generate.js';
import { loadModel } from '#lowrank/models/load.js';
import { standardQuantization } from '#lowrank/models/quantize.js';
import { Embedding } from '#lowrank/nn/layers.js';
import { serve } from '../contender.js';
import { openSynthetic } from '../shapes.js';

export interface DecodeRun {
  shape: string;
  folder: string;
  /** The layers' matrices in 4 bits, quantised while loading. */
  nf4: boolean;
  prompt: number[];
  tokens: number;
}

const run = JSON.parse(process.argv[2]) as DecodeRun;
const backend = await openCpuBackend();
const source = await openSynthetic(run.folder, run.shape);
const quantization = run.nf4 ? standardQuantization : undefined;
const { model } = await loadModel(source, backend, { precision: 'bf16', quantization });

/** As stored, with the scales. An embedding gives one row, which is nothing; a tied head is a module of its own. */
function bytesPerToken(): number {
  const bytesOf = ({ bytes, quantization }: Tensor) => bytes + (quantization?.absmax.bytes ?? 0) + (quantization?.constants?.bytes ?? 0);
  const read = [...model.modules.values()].filter((module) => !(module instanceof Embedding));
  return read.reduce((sum, { weight }) => sum + bytesOf(weight), 0);
}

await serve(async ({ about }: { about?: boolean }) => {
  if (about) return { bytes: bytesPerToken() };
  const times: number[] = [];
  const onToken = () => {
    times.push(performance.now());
    return undefined;
  };
  const [{ ids }] = await generate(model, [run.prompt], { max_new_tokens: run.tokens, stopIds: new Set(), onToken });
  return { seconds: (times[times.length - 1] - times[0]) / 1000 / (times.length - 1), ids };
});
await backend.close();
