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
 * Writes a random model with a byte-level tokenizer and the ChatML template, in Hugging Face's layout; `more` changes its config.json, `rename` its
 * tensors' names.
 */
export async function writeTinyModel(
  folder: string,
  more: Record<string, unknown> = {},
  dtype: 'F32' | 'BF16' = 'F32',
  rename = (name: string) => name,
): Promise<string> {
  const config = { ...tinyConfig, ...more };
  mkdirSync(folder, { recursive: true });
  const random = new Random(7, 0);
  const tensors = [...llamaShapes(config)].map(([name, shape]) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const mean = name.includes('norm') ? 1 : 0;
    const values = Float32Array.from({ length: size }, () => mean + 0.05 * random.normal());
    const stored = dtype === 'F32' ? values : f32ToBf16(values);
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
