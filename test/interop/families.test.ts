import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { loadModel } from '../../src/models/load.js';
import { openModel } from '../../src/runs/node.js';
import { openBest } from '../helpers/native.js';
import { askPeers, distance, logitsOf, temporaryFolder, tensorsOf } from './peers.js';

interface File {
  architecture: string;
  golden?: string;
  permuted?: boolean;
  norm_offset?: number;
  numbers?: Record<string, number | boolean>;
  /** Whether all experts are one tensor. */
  stacked?: boolean;
  /** Most tensors of a part. */
  split?: number;
}

/** Goldens of families, with what is particular to their files in llama.cpp. */
const files: Record<string, File> = {
  'untied-wide-heads': { architecture: 'llama', permuted: true },
  qwen2: { architecture: 'qwen2' },
  qwen3: { architecture: 'qwen3' },
  mixtral: { architecture: 'llama', permuted: true, numbers: { expert_count: 5, expert_used_count: 2 } },
  'mixtral, a tensor for each expert': {
    architecture: 'llama',
    golden: 'mixtral',
    permuted: true,
    stacked: false,
    numbers: { expert_count: 5, expert_used_count: 2 },
  },
  'qwen3-moe': {
    architecture: 'qwen3moe',
    numbers: { expert_count: 6, expert_used_count: 3, expert_feed_forward_length: 20 },
  },
  olmo2: { architecture: 'olmo2', split: 9 },
  olmoe: { architecture: 'olmoe', numbers: { expert_count: 6, expert_used_count: 2 } },
  granite: {
    architecture: 'granite',
    permuted: true,
    numbers: { 'attention.scale': 0.2, embedding_scale: 3, residual_scale: 0.4, logit_scale: 2 },
  },
  glm4: { architecture: 'glm4' },
  phi: { architecture: 'phi2' },
  gpt2: { architecture: 'gpt2' },
  'gpt-neox': { architecture: 'gptneox', numbers: { use_parallel_residual: true } },
  cohere: { architecture: 'command-r', numbers: { logit_scale: 0.5 } },
  starcoder2: { architecture: 'starcoder2', numbers: { 'attention.sliding_window': 9 } },
  stablelm: { architecture: 'stablelm', numbers: { use_parallel_residual: false } },
  phi3: { architecture: 'phi3', numbers: { 'attention.sliding_window': 11 } },
  gemma: { architecture: 'gemma', norm_offset: 1 },
  lfm2: { architecture: 'lfm2', numbers: { 'shortconv.l_cache': 4 } },
  gemma2: {
    architecture: 'gemma2',
    norm_offset: 1,
    numbers: { 'attention.sliding_window': 6, attn_logit_softcapping: 0.5, final_logit_softcapping: 1.5 },
  },
};

/**
 * Models that are made for it: those whose layers differ by a pattern that no file tells, for which two layers of a golden are too few, and
 * one whose golden has what its files do not.
 */
const made: Record<string, File & { of: string; config: Record<string, unknown> }> = {
  gemma3: {
    of: 'Gemma3ForCausalLM',
    architecture: 'gemma3',
    norm_offset: 1,
    numbers: { 'attention.sliding_window': 6 },
    config: { num_hidden_layers: 8, head_dim: 12, query_pre_attn_scalar: 256, sliding_window: 6, initializer_range: 0.3 },
  },
  // The one that llama.cpp knows by its layers.
  'gemma3-27b': {
    of: 'Gemma3ForCausalLM',
    architecture: 'gemma3',
    norm_offset: 1,
    numbers: { 'attention.sliding_window': 6 },
    config: { num_hidden_layers: 62, head_dim: 8, query_pre_attn_scalar: 12, sliding_window: 6, initializer_range: 0.3 },
  },
  smollm3: { of: 'SmolLM3ForCausalLM', architecture: 'smollm3', permuted: true, config: { num_hidden_layers: 5, pad_token_id: 0 } },
  mistral: { of: 'MistralForCausalLM', architecture: 'llama', permuted: true, config: { num_hidden_layers: 2, sliding_window: null } },
};
const sizes = {
  hidden_size: 48,
  intermediate_size: 80,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 160,
  max_position_embeddings: 64,
  initializer_range: 0.2,
};
const examples = [[1, 5, 9, 130, 77, 3, 3, 42, 8, 101, 64]];

const folder = temporaryFolder();
const goldens = resolve('test/golden/models');
const at = (name: string) => join(folder.path, name);
const gguf = (base: string, out: string, { permuted = false, norm_offset = 0, numbers = {}, stacked = true, split = 0, ...file }: File) => {
  return { do: 'write_gguf', folder: base, out, architecture: file.architecture, permuted, norm_offset, numbers, stacked, split };
};
beforeAll(() =>
  askPeers(folder.path, [
    ...Object.entries(files).map(([name, { golden = name, ...file }]) => gguf(join(goldens, golden), at(`${name}.gguf`), file)),
    ...Object.entries(made).flatMap(([name, { of, config, ...file }]) => [
      { do: 'write_base', folder: at(name), config: { ...sizes, ...config }, architecture: of },
      { do: 'read_model', folder: at(name), examples, out: at(`${name}.logits`) },
      gguf(at(name), at(`made-${name}.gguf`), file),
    ]),
  ]),
);
afterAll(() => folder.remove());

test.each(Object.keys(files))('%s as GGUF under llama.cpp’s names gives transformers’ logits', async (name) => {
  const backend = await openBest();
  const { split } = files[name];
  const source = await openModel(at(split ? `${name}-00002-of-00004.gguf` : `${name}.gguf`));
  const { model } = await loadModel(source, backend, { precision: 'fp32' });
  const golden = await readSafetensors(await openFile(join(goldens, files[name].golden ?? name, 'golden.safetensors')));
  for (const i of [0, 1]) {
    const ids = new Int32Array((await golden.tensors.get(`ids.${i}`)!.read()).slice().buffer);
    const expected = new Float32Array((await golden.tensors.get(`logits.${i}`)!.readAs('f32')).slice().buffer);
    expect(distance(await logitsOf(model, [...ids]), expected)).toBeLessThan(1e-4);
  }
  await golden.close();
  await source.checkpoint.close();
  await backend.close();
});

test.each(Object.keys(made))('%s, made for it, as GGUF under llama.cpp’s names gives transformers’ logits', async (name) => {
  const backend = await openBest();
  const source = await openModel(at(`made-${name}.gguf`));
  const { model } = await loadModel(source, backend, { precision: 'fp32' });
  const expected = (await tensorsOf(at(`${name}.logits`))).get('logits.0')!;
  expect(distance(await logitsOf(model, examples[0]), expected)).toBeLessThan(1e-4);
  await source.checkpoint.close();
  await backend.close();
});
