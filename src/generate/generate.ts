import { scope } from '../core/scope.js';
import { empty, fromArray, type Tensor } from '../core/tensor.js';
import { KvCache } from '../nn/kv-cache.js';
import type { CausalLM } from '../nn/model.js';
import { notFiniteWeight } from '../nn/not-finite.js';
import { LowrankError } from '../util/errors.js';
import { Random, streams } from '../util/philox.js';
import { checkSampling, isGreedy, type SamplingOptions, sampleToken } from './sampler.js';

export interface GenerationOptions extends SamplingOptions {
  max_new_tokens: number;
  /** Ids that end an answer; they are not part of it. */
  stopIds: ReadonlySet<number>;
  /** Each answer draws from a stream of its own. */
  seed?: number;
  signal?: AbortSignal;
  /** Hears every token of an answer as it is chosen; returning true ends that answer with it. */
  onToken?: (answer: number, id: number) => boolean | undefined;
}

export interface Answer {
  ids: number[];
  /** `stop`: at a stop id or by `onToken`; `length`: at max_new_tokens or the model's longest context. */
  finish: 'stop' | 'length';
}

interface Sequence extends Answer {
  slot: number;
  /** Tokens whose keys and values are in the cache. */
  cached: number;
  /** Tokens to be fed next. */
  pending: readonly number[];
  prompt: readonly number[];
  random: Random;
}

/** Continues prompts (token ids), all at once with a key/value cache: one pass over the prompts, then one token of each per pass. */
export async function generate(model: CausalLM, prompts: readonly (readonly number[])[], options: GenerationOptions): Promise<Answer[]> {
  checkSampling(options);
  if (prompts.length === 0) return [];
  const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0);
  checkPrompts(model, prompts, longest);
  const capacity = Math.min(longest + Math.max(1, options.max_new_tokens), model.maxPositions);
  const cache = new KvCache(model.backend, { slots: prompts.length, capacity, dtype: model.dtype });
  const sequences = prompts.map((prompt, slot): Sequence => {
    const random = new Random(options.seed ?? 0, streams.sampling + slot);
    return { slot, ids: [], finish: 'length', cached: 0, pending: prompt, prompt, random };
  });
  try {
    let active = options.max_new_tokens > 0 ? sequences : [];
    while (active.length > 0) {
      options.signal?.throwIfAborted();
      const chosen = await nextTokens(model, cache, active, options);
      active = active.filter((sequence, i) => {
        sequence.cached += sequence.pending.length;
        sequence.pending = [chosen[i]];
        if (options.stopIds.has(chosen[i])) {
          sequence.finish = 'stop';
          return false;
        }
        sequence.ids.push(chosen[i]);
        if (options.onToken?.(sequence.slot, chosen[i])) {
          sequence.finish = 'stop';
          return false;
        }
        return sequence.ids.length < options.max_new_tokens && sequence.cached < capacity;
      });
    }
  } finally {
    cache.dispose();
  }
  return sequences.map(({ ids, finish }) => ({ ids, finish }));
}

function checkPrompts(model: CausalLM, prompts: readonly (readonly number[])[], longest: number): void {
  for (const [i, prompt] of prompts.entries()) {
    if (prompt.length === 0) throw new LowrankError('there are no tokens', { place: `prompt ${i}`, mend: 'give it some text' });
    const wrong = prompt.find((id) => !Number.isInteger(id) || id < 0 || id >= model.vocabulary);
    if (wrong !== undefined) {
      throw new LowrankError(`holds the token id ${wrong}`, {
        place: `prompt ${i}`,
        expected: `ids below ${model.vocabulary}`,
        mend: 'use the tokenizer of this model',
      });
    }
  }
  if (longest >= model.maxPositions) {
    throw new LowrankError(`the longest has ${longest} tokens`, {
      place: 'prompts',
      expected: `fewer than ${model.maxPositions}`,
      mend: 'shorten the prompt',
    });
  }
}

/** One forward pass over the pending tokens of all sequences and a choice for each. */
async function nextTokens(model: CausalLM, cache: KvCache, sequences: readonly Sequence[], options: GenerationOptions): Promise<number[]> {
  // The first logits of a prompt are looked at whole; of later ones the choice shows where there is none, as all are NaN.
  const first = sequences.some(({ cached }) => cached === 0);
  const greedy = isGreedy(options) && !first;
  const picked = scope(() => {
    const logits = lastLogits(model, cache, sequences);
    if (!greedy) return logits;
    const index = empty(model.backend, [sequences.length], 'i32');
    model.backend.run('argmax', { x: logits }, { index }, {});
    return index;
  });
  try {
    if (greedy) {
      const bytes = await picked.read();
      const tokens = Array.from(new Int32Array(bytes.buffer, bytes.byteOffset, sequences.length));
      if (tokens.some((token) => token < 0)) throw await notComputable(model);
      return tokens;
    }
    const logits = await picked.toFloat32();
    if (!logits.every(Number.isFinite)) throw await notComputable(model);
    return sequences.map(({ prompt, ids, random }, i) => {
      const row = logits.subarray(i * model.vocabulary, (i + 1) * model.vocabulary);
      return sampleToken(row, [...prompt, ...ids], options, random);
    });
  } finally {
    picked.dispose();
  }
}

async function notComputable(model: CausalLM): Promise<LowrankError> {
  const mend = 'load it with other precision, or take another model';
  return (await notFiniteWeight(model)) ?? new LowrankError('the logits are not finite', { place: 'the model', mend });
}

/** Logits [S,V] f32 after the last pending token of each sequence. */
function lastLogits(model: CausalLM, cache: KvCache, sequences: readonly Sequence[]): Tensor {
  const { backend } = model;
  const [inputIds, positions, segments, cacheRows, last]: number[][] = [[], [], [], [], []];
  for (const { slot, cached, pending } of sequences) {
    const first = slot * cache.capacity;
    segments.push(inputIds.length, inputIds.length + pending.length, first, first + cached + pending.length);
    pending.forEach((id, i) => {
      inputIds.push(id);
      positions.push(cached + i);
      cacheRows.push(first + cached + i);
    });
    last.push(inputIds.length - 1);
  }
  const [ids, places, table, rows] = [inputIds, positions, segments, cacheRows].map((list) => Int32Array.from(list));
  const hidden = model.hidden({ inputIds: ids, positions: places, segments: table }, { cache, cacheRows: rows });
  if (last.length === inputIds.length) return model.logits(hidden);
  const chosen = empty(backend, [last.length, hidden.shape[1]], hidden.dtype);
  backend.run('gatherRows', { x: hidden, rows: fromArray(backend, Int32Array.from(last)) }, { out: chosen }, {});
  return model.logits(chosen);
}
