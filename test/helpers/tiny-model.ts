import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeSafetensors } from '../../src/io/safetensors.js';
import { f32ToBf16 } from '../../src/util/half.js';
import { Random } from '../../src/util/philox.js';
import { chatml, golden, templateSource } from '../data/golden.js';
import { llamaShapes } from './tiny-llama.js';

export const tinyConfig = {
  model_type: 'llama',
  architectures: ['LlamaForCausalLM'],
  hidden_size: 48,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  vocab_size: chatml.vocabSize,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
};

/**
 * A value for each weight: random ones, and for `chain` those of a model whose next token follows from the last one alone: its layers add
 * nothing, its head looks the last token's embedding up.
 */
function weights(config: typeof tinyConfig, chain?: readonly (readonly [from: number, to: number])[]): Map<string, Float32Array> {
  const random = new Random(7, 0);
  const values = [...llamaShapes(config)].map(([name, shape]): [string, Float32Array] => {
    const size = shape.reduce((a, b) => a * b, 1);
    const mean = name.includes('norm') ? 1 : 0;
    return [name, Float32Array.from({ length: size }, () => mean + 0.05 * random.normal())];
  });
  const tensors = new Map(values);
  const [embedding, head, C] = [tensors.get('model.embed_tokens.weight')!, tensors.get('lm_head.weight'), config.hidden_size];
  for (const [name, data] of chain && head ? tensors : []) if (/o_proj|down_proj|lm_head/.test(name)) data.fill(0);
  for (const [from, to] of chain ?? []) {
    const row = embedding.subarray(from * C, (from + 1) * C);
    const norm = Math.hypot(...row);
    row.forEach((x, i) => {
      head![to * C + i] += (20 * x) / norm;
    });
  }
  return tensors;
}

/**
 * Writes a model whose answer to anything is the tokens of `chain`, one after the other: each follows from the one before, and the first
 * from `after`, the last token of a prompt. Its loss on them is 0.
 */
export function writeChainModel(
  folder: string,
  after: string,
  chain: readonly string[],
  more: Record<string, unknown> = {},
): Promise<string> {
  const ids = [after, ...chain].map((text) => chatml.encode(text).at(-1)!);
  const links = ids.slice(1).map((id, i) => [ids[i], id] as const);
  return writeTinyModel(folder, { tie_word_embeddings: false, ...more }, 'F32', undefined, links);
}

/**
 * Writes a random model with a byte-level tokenizer and the ChatML template, in Hugging Face's layout; `more` changes its config.json,
 * `rename` its tensors' names.
 */
export async function writeTinyModel(
  folder: string,
  more: Record<string, unknown> = {},
  dtype: 'F32' | 'BF16' = 'F32',
  rename = (name: string) => name,
  chain?: readonly (readonly [from: number, to: number])[],
): Promise<string> {
  const config = { ...tinyConfig, ...more };
  mkdirSync(folder, { recursive: true });
  const values = weights(config, chain);
  const tensors = [...llamaShapes(config)].map(([name, shape]) => {
    const stored = dtype === 'F32' ? values.get(name)! : f32ToBf16(values.get(name)!);
    return { name: rename(name), dtype, shape, data: async () => new Uint8Array(stored.buffer) };
  });
  const parts: Uint8Array[] = [];
  for await (const part of encodeSafetensors(tensors)) parts.push(part);
  writeFileSync(join(folder, 'model.safetensors'), Buffer.concat(parts));
  const write = (name: string, value: object) => writeFileSync(join(folder, name), JSON.stringify(value));
  write('config.json', config);
  write('tokenizer.json', JSON.parse(readFileSync(new URL('../golden/templates/byte-level.tokenizer.json', import.meta.url), 'utf8')));
  write('tokenizer_config.json', { ...golden.special_tokens['byte-level'], chat_template: templateSource('chatml') });
  return folder;
}

/** Rows that even a tiny model can learn: the answer is the question backwards. */
export function rows(count: number, seed = 1): { messages: { role: string; content: string }[] }[] {
  const random = new Random(seed, 3);
  const letter = () => String.fromCharCode(97 + Math.floor(26 * random.next()));
  return Array.from({ length: count }, () => {
    const word = Array.from({ length: 2 + Math.floor(4 * random.next()) }, letter);
    return {
      messages: [
        { role: 'user', content: word.join('') },
        { role: 'assistant', content: word.reverse().join('') },
      ],
    };
  });
}

export function writeRows(path: string, count: number, seed?: number): string {
  writeFileSync(
    path,
    rows(count, seed)
      .map((row) => `${JSON.stringify(row)}\n`)
      .join(''),
  );
  return path;
}
