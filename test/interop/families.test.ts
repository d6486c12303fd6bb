import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { loadModel } from '../../src/models/load.js';
import { openModel } from '../../src/runs/node.js';
import { openBest } from '../helpers/native.js';
import { askPeers, distance, logitsOf, temporaryFolder } from './peers.js';

/**
 * Goldens of families, with what is particular to their files in llama.cpp. Not those whose layers differ by a pattern that no file tells
 * (SmolLM3, Gemma 3): two layers of a golden are too few for the one that is built in.
 */
interface File {
  architecture: string;
  golden?: string;
  permuted?: boolean;
  norm_offset?: number;
  numbers?: Record<string, number | boolean>;
  /** Whether all experts are one tensor. */
  stacked?: boolean;
}
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
  olmo2: { architecture: 'olmo2' },
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

const folder = temporaryFolder();
const goldens = resolve('test/golden/models');
beforeAll(() =>
  askPeers(
    folder.path,
    Object.entries(files).map(
      ([name, { permuted = false, norm_offset = 0, numbers = {}, stacked = true, golden = name, architecture }]) => ({
        do: 'write_gguf',
        folder: join(goldens, golden),
        stacked,
        out: join(folder.path, `${name}.gguf`),
        architecture,
        permuted,
        norm_offset,
        numbers,
      }),
    ),
  ),
);
afterAll(() => folder.remove());

test.each(Object.keys(files))('%s as GGUF under llama.cpp’s names gives transformers’ logits', async (name) => {
  const backend = await openBest();
  const source = await openModel(join(folder.path, `${name}.gguf`));
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
