import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import type { Backend } from '../core/backend.js';
import type { StoredTensor } from '../io/checkpoint.js';
import { writeModel } from '../io/model-folder.js';
import type { ModelSource } from '../io/model-source.js';
import { localFolder } from '../io/node/folder.js';
import { cacheFolder } from '../io/node.js';
import { isUsableInPlace, type LoadOptions } from '../models/load.js';
import { bitsPerParameter, isQuantizable, type QuantizationConfig } from '../models/quantize.js';
import { quantizeModel } from '../models/quantized-model.js';
import { openModel } from '../runs/node.js';
import { LowrankError } from '../util/errors.js';
import { bytes, type Terminal, withProgress } from './console.js';

/** When a base is streamed from its file: always, or where its layers would take more than half of the memory there is. */
export interface Streaming {
  mode: true | 'auto';
  /** Bytes of memory that the process may hold; default: what the machine has free. */
  limit?: number;
}

/** The layers' matrices: how they are to be quantised where they are not yet, what they take, and whether they can be streamed. */
function matricesOf(source: ModelSource, { precision, quantization }: LoadOptions) {
  const matrices = [...source.checkpoint.tensors.values()].filter(isQuantizable);
  const made = quantization && !matrices.some(({ quantized }) => quantized) ? quantization : undefined;
  const sizes = matrices.map(({ shape, byteLength }) => (made ? (shape[0] * shape[1] * bitsPerParameter(made)) / 8 : byteLength));
  // What is not quantised here is streamed from where it lies: codes, or floats that need no conversion.
  const usable = (stored: StoredTensor) => stored.quantized !== undefined || isUsableInPlace(stored, precision === 'bf16' ? 'bf16' : 'f32');
  return { made, streamable: made !== undefined || matrices.every(usable), size: sizes.reduce((sum, n) => sum + n, 0) };
}

/** Whether a base is to be streamed. */
export function wantsStreaming(source: ModelSource, { mode, limit }: Streaming, options: LoadOptions): boolean {
  if (mode === true) return true;
  const available = limit ?? Math.min(freemem(), process.constrainedMemory?.() || Number.POSITIVE_INFINITY);
  const { streamable, size } = matricesOf(source, options);
  return streamable && size > available / 2;
}

/**
 * The model to stream a base from, or undefined where the base should be in memory. A base that is to be quantised is quantised once, into the
 * cache; one that is not, or already is, is streamed from its own files. Throws where it must be streamed and cannot.
 */
export async function streamedSource(
  terminal: Terminal,
  source: ModelSource,
  backend: Backend,
  streaming: Streaming,
  options: LoadOptions,
  signal: AbortSignal,
): Promise<ModelSource | undefined> {
  if (!wantsStreaming(source, streaming, options)) return undefined;
  if (!backend.fetch) {
    if (streaming.mode === 'auto') return undefined;
    throw new LowrankError(`the backend ${backend.name} cannot map files`, { place: 'stream_base', mend: 'use --device cpu' });
  }
  const { made, streamable, size } = matricesOf(source, options);
  if (!streamable)
    throw new LowrankError('the weights must be converted and cannot be read where they lie', {
      place: `stream_base: ${source.name}`,
      mend: `set adapter: qlora, which quantises them into a file, or take one stored in safetensors as ${options.precision}`,
    });
  const streamed = made ? await cachedQuantized(terminal, source, backend, made, signal) : source;
  terminal.note(`streaming  ${bytes(size)} of weights from ${streamed.name}`);
  return streamed;
}

/** Where bases that were quantised to be streamed are kept. */
export const quantizedFolder = (): string => join(cacheFolder(), 'lowrank', 'quantized');

/** The quantised model in the cache, made where it is not there yet. */
async function cachedQuantized(
  terminal: Terminal,
  source: ModelSource,
  backend: Backend,
  config: QuantizationConfig,
  signal: AbortSignal,
): Promise<ModelSource> {
  const key = createHash('sha256')
    .update(JSON.stringify([source.name, source.identity, config]))
    .digest('hex')
    .slice(0, 16);
  const folder = localFolder(quantizedFolder());
  const path = join(folder.path, key);
  if (!existsSync(path)) {
    terminal.note(`quantising ${source.name} into ${path}`);
    const model = quantizeModel(source, backend, config);
    try {
      const tensors = withProgress(terminal, model.tensors, 'quantising', signal);
      await folder.create(key, (inner) => writeModel(inner, { ...model, tensors }, source));
    } finally {
      model.dispose();
      terminal.clearBar();
    }
  }
  return openModel(path);
}
