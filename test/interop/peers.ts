import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { openCpuBackend } from '../../src/backends/cpu/index.js';
import type { Backend } from '../../src/core/backend.js';
import { scope } from '../../src/core/scope.js';
import { groupQuantized } from '../../src/io/bitsandbytes.js';
import type { Checkpoint } from '../../src/io/checkpoint.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { type LoadedModel, loadModel } from '../../src/models/load.js';
import { withModelNames } from '../../src/models/names.js';
import type { QuantizationConfig } from '../../src/models/quantize.js';
import type { CausalLM } from '../../src/nn/model.js';

export const peersFolder = 'build/peers';
export const realModel = 'SmolLM2-135M-Instruct.Q4_1.gguf';

/** A folder that is removed at the end. */
export function temporaryFolder(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'lowrank-interop-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** Runs a job of tools/golden/peers.py in the pinned venv; a failing assertion there fails the test with its trace. */
export async function askPeers(folder: string, job: object[]): Promise<void> {
  const path = join(folder, 'job.json');
  writeFileSync(path, JSON.stringify(job));
  const env = { ...process.env, HF_HUB_OFFLINE: '1', TOKENIZERS_PARALLELISM: 'false' };
  try {
    await promisify(execFile)(`${peersFolder}/venv/bin/python`, ['tools/golden/peers.py', path], { env, maxBuffer: 1 << 26 });
  } catch (error) {
    throw new Error(`the peer failed:\n${(error as { stderr?: string }).stderr ?? error}`);
  }
}

export const json = (path: string) => JSON.parse(readFileSync(path, 'utf8'));

export async function tensorsOf(path: string): Promise<Map<string, Float32Array>> {
  const checkpoint: Checkpoint = await readSafetensors(await openFile(path));
  const result = new Map<string, Float32Array>();
  for (const [name, tensor] of checkpoint.tensors) {
    const bytes = await tensor.readAs('f32');
    result.set(name, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
  }
  await checkpoint.close();
  return result;
}

/** A model in Hugging Face layout without a tokenizer, in f32 on the processor. */
export async function openBase(
  folder: string,
  quantization?: QuantizationConfig,
): Promise<{ backend: Backend; model: CausalLM; checkpoint: Checkpoint; source: ModelSource; close: () => Promise<void> }> {
  const backend = await openCpuBackend({ threads: 2 });
  const checkpoint = await groupQuantized(await readSafetensors(await openFile(`${folder}/model.safetensors`)));
  const tokenizer = { tokenizerJson: {}, tokenizerConfig: {} };
  const source = withModelNames({ name: folder, config: json(`${folder}/config.json`), checkpoint, identity: 'test', tokenizer });
  const loaded: LoadedModel = await loadModel(source, backend, { precision: 'fp32', quantization });
  const close = async () => {
    loaded.dispose();
    await checkpoint.close();
    await backend.close();
  };
  return { backend, model: loaded.model, checkpoint, source, close };
}

export async function logitsOf(model: CausalLM, ids: readonly number[]): Promise<Float32Array> {
  const n = ids.length;
  const tokens = { inputIds: Int32Array.from(ids), positions: Int32Array.from(ids.keys()), segments: Int32Array.of(0, n, 0, n) };
  const logits = scope(() => model.logits(model.hidden(tokens)));
  const values = await logits.toFloat32();
  logits.dispose();
  return values;
}

/** ‖a − b‖∞ / ‖b‖∞ */
export function distance(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let [difference, size] = [0, 0];
  b.forEach((value, i) => {
    difference = Math.max(difference, Math.abs(a[i] - value));
    size = Math.max(size, Math.abs(value));
  });
  return difference / size;
}

/** ‖a − b‖₂ / ‖b‖₂ */
export function relativeError(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let [difference, size] = [0, 0];
  b.forEach((value, i) => {
    difference += (a[i] - value) ** 2;
    size += value ** 2;
  });
  return Math.sqrt(difference / size);
}
