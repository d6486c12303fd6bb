import type { Backend } from '../core/backend.js';
import type { StoredTensor } from '../io/checkpoint.js';
import { writeModel } from '../io/model-folder.js';
import type { ModelSource } from '../io/model-source.js';
import { isUsableInPlace, type LoadOptions } from '../models/load.js';
import { bitsPerParameter, isQuantizable, type QuantizationConfig } from '../models/quantize.js';
import { quantizeModel } from '../models/quantized-model.js';
import { LowrankError } from '../util/errors.js';
import type { SessionEvent } from './events.js';
import type { Host } from './host.js';
import { inTurns } from './progress.js';

/** When a base is streamed from its file: always, or where its layers would take more than half of the memory there is. */
export interface Streaming {
  mode: true | 'auto';
  /** Bytes of memory that the process may hold; default: what the machine has free. */
  limit?: number;
}

/** Where streaming happens and who hears of it. */
export interface StreamingContext {
  host: Host;
  onEvent?: (event: SessionEvent) => void;
  /** Ends quantising with its reason. */
  signal?: AbortSignal;
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

/** Whether a base is to be streamed on a machine with `free` bytes of memory. */
export function wantsStreaming(source: ModelSource, { mode, limit }: Streaming, options: LoadOptions, free: number): boolean {
  if (mode === true) return true;
  const { streamable, size } = matricesOf(source, options);
  return streamable && size > (limit ?? free) / 2;
}

/**
 * The model to stream a base from, or undefined where the base should be in memory. A base that is to be quantised is quantised once, into
 * the cache; one that is not, or already is, is streamed from its own files. Throws where it must be streamed and cannot.
 */
export async function streamedSource(
  source: ModelSource,
  backend: Backend,
  streaming: Streaming,
  options: LoadOptions,
  context: StreamingContext,
): Promise<ModelSource | undefined> {
  if (!wantsStreaming(source, streaming, options, context.host.machine().free)) return undefined;
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
  const streamed = made ? await cachedQuantized(source, backend, made, context) : source;
  context.onEvent?.({ type: 'streaming', bytes: size, path: streamed.name });
  return streamed;
}

/** The quantised model in the cache, made where it is not there yet. */
async function cachedQuantized(
  source: ModelSource,
  backend: Backend,
  config: QuantizationConfig,
  { host, onEvent, signal }: StreamingContext,
): Promise<ModelSource> {
  const key = await hash(JSON.stringify([source.name, source.identity, config]));
  const bases = host.quantizedBases();
  const { path } = bases.folder(key);
  if (!(await bases.list()).includes(key)) {
    const model = quantizeModel(source, backend, config);
    const report = (done: number, total: number) => onEvent?.({ type: 'quantizing', model: source.name, path, done, total });
    report(0, model.tensors.length);
    try {
      const tensors = inTurns(model.tensors, report, signal);
      await bases.create(key, (inner) => writeModel(inner, { ...model, tensors }, source));
    } finally {
      model.dispose();
    }
  }
  return host.openModel(path);
}

/** The first 16 hexadecimal digits of SHA-256. */
async function hash(text: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)));
  return Array.from(digest.subarray(0, 8), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
