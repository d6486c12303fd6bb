import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseAdapterConfig } from '#lowrank/adapters/registry.js';
import { encodeQuantized, groupQuantized } from '#lowrank/io/bitsandbytes.js';
import { localFolder } from '#lowrank/io/node/folder.js';
import { openFile } from '#lowrank/io/node.js';
import { encodeSafetensors, readSafetensors, type TensorToWrite } from '#lowrank/io/safetensors.js';
import { isQuantizable, standardQuantization } from '#lowrank/models/quantize.js';
import { dryRun, fullBatch } from '#lowrank/plan/dry-run.js';
import { dynamicMap } from '#lowrank/quant/dynamic-map.js';
import { fourBitConstants, fourBitValues, nestedBlockSize } from '#lowrank/quant/four-bit.js';
import { f32ToBf16 } from '#lowrank/util/half.js';
import type { JsonObject } from '#lowrank/util/json.js';
import { Random } from '#lowrank/util/philox.js';

/** What a measured loop trains on. */
export interface Run {
  /** LoRA on all linear layers (default), the same over NF4 with double quantisation, or every weight. */
  method?: 'lora' | 'qlora' | 'full';
  /** Of the adapters; default 16. */
  rank?: number;
  shape: keyof typeof shapes & string;
  /** A checkpoint that is quantised already, instead of one in `dtype`. */
  quantized?: boolean;
  dtype: 'bf16' | 'fp32';
  batch: number;
  length: number;
  /** The share of each sequence, at its end, that has labels; default 1. */
  supervised?: number;
  checkpointing?: boolean;
  dropout?: number;
  /** A file of batches of token ids, instead of random ones. */
  data?: string;
}

/** config.json of the models that are measured. */
export const shapes: Record<string, JsonObject> = {
  smol135: llama(576, 1536, 30, 9, 3, 49152, { rope_theta: 100_000, tie_word_embeddings: true }),
  tiny1b: llama(2048, 5632, 22, 32, 4, 32000, { rope_theta: 10_000, tie_word_embeddings: false }),
  llama7b: llama(4096, 11008, 32, 32, 32, 32000, { rope_theta: 10_000, tie_word_embeddings: false }),
  llama13b: llama(5120, 13824, 40, 40, 40, 32000, { rope_theta: 10_000, tie_word_embeddings: false }),
  llama33b: llama(6656, 17920, 60, 52, 52, 32000, { rope_theta: 10_000, tie_word_embeddings: false }),
  llama65b: llama(8192, 22016, 80, 64, 64, 32000, { rope_theta: 10_000, tie_word_embeddings: false }),
};

function llama(
  hidden: number,
  intermediate: number,
  layers: number,
  heads: number,
  groups: number,
  vocabulary: number,
  more: JsonObject,
): JsonObject {
  return {
    model_type: 'llama',
    architectures: ['LlamaForCausalLM'],
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: groups,
    vocab_size: vocabulary,
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-5,
    ...more,
  };
}

/**
 * The work of one step with an adapter on all linear layers, in GFLOP: that of all products and of attention as the planner counts it,
 * without what checkpointing computes again.
 */
export async function stepWork({ shape, batch, length, supervised = 1, rank = 16 }: Run): Promise<number> {
  const packed = fullBatch(batch, length);
  const labels = packed.labels.map((label, i) => (i % length < Math.floor(length * (1 - supervised)) ? -100 : label));
  const { operations } = await dryRun({
    name: shape,
    config: shapes[shape],
    precision: 'bf16',
    lora: parseAdapterConfig({ r: rank, target_modules: 'all-linear' }, 'bench'),
    stream: false,
    mapped: true,
    optimizer: 'adamw_torch',
    gradient_checkpointing: false,
    batches: [{ ...packed, labels }],
    threads: 1,
  });
  return operations / 1e9;
}

type Stored = 'BF16' | 'F32' | 'NF4';

/** How the model of a run is stored. */
export const storedAs = ({ quantized, dtype }: Run): Stored => (quantized ? 'NF4' : dtype === 'bf16' ? 'BF16' : 'F32');

/** Where a synthetic model lies. */
export const modelFolder = (shape: string, stored: Stored) => resolve(import.meta.dirname, '../models', `${shape}-${stored}`);

/** A folder with random weights of that shape, written once. NF4: quantised twice over, as `lowrank quantize --double` writes it. */
export async function syntheticModel(shape: string, stored: Stored): Promise<string> {
  const folder = modelFolder(shape, stored);
  if (existsSync(join(folder, 'config.json'))) return folder;
  const config = shapes[shape];
  const tensors = stored === 'NF4' ? tensorsOf(config, 'BF16').flatMap(randomlyQuantized) : tensorsOf(config, stored);
  await localFolder(folder).write('model.safetensors', encodeSafetensors(tensors));
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'config.tmp'), JSON.stringify(config));
  renameSync(join(folder, 'config.tmp'), join(folder, 'config.json'));
  return folder;
}

let noiseBytes: Buffer | undefined;

/** A matrix of a layer with random codes and scales, any other tensor as it is. */
function randomlyQuantized(tensor: TensorToWrite): TensorToWrite[] {
  const { name, shape } = tensor;
  if (!isQuantizable(tensor)) return [tensor];
  const bytes = async () => {
    const blocks = (shape[0] * shape[1]) / 64;
    noiseBytes ??= randomBytes(1 << 27);
    const nested = { offset: 0.02, values: dynamicMap(true), absmax: new Float32Array(Math.ceil(blocks / nestedBlockSize)).fill(0.01) };
    const constants = fourBitConstants(fourBitValues.nf4, 64, nested);
    return { codes: noiseBytes.subarray(0, 32 * blocks), absmax: noiseBytes.subarray(7, 7 + blocks), constants };
  };
  return encodeQuantized({ name, shape, ...standardQuantization, bytes }, nestedBlockSize);
}

/** Opens a synthetic model, which has no tokenizer. */
export async function openSynthetic(folder: string, shape: string) {
  const checkpoint = await groupQuantized(await readSafetensors(await openFile(join(folder, 'model.safetensors'))));
  return { name: shape, config: shapes[shape], tokenizer: { tokenizerJson: {}, tokenizerConfig: {} }, checkpoint, identity: shape };
}

function tensorsOf(config: JsonObject, dtype: 'BF16' | 'F32'): TensorToWrite[] {
  const [C, F, L, H, G, V] = [
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
    'vocab_size',
  ].map((key) => Number(config[key]));
  const width = (C / H) * G;
  const layer: [string, number[]][] = [
    ['input_layernorm', [C]],
    ['post_attention_layernorm', [C]],
    ['self_attn.q_proj', [C, C]],
    ['self_attn.k_proj', [width, C]],
    ['self_attn.v_proj', [width, C]],
    ['self_attn.o_proj', [C, C]],
    ['mlp.gate_proj', [F, C]],
    ['mlp.up_proj', [F, C]],
    ['mlp.down_proj', [C, F]],
  ];
  const all: [string, number[]][] = [
    ['model.embed_tokens', [V, C]],
    ['model.norm', [C]],
    ...Array.from({ length: L }, (_, i) => layer.map(([name, shape]): [string, number[]] => [`model.layers.${i}.${name}`, shape])).flat(),
  ];
  if (!config.tie_word_embeddings) all.push(['lm_head', [V, C]]);
  const random = new Random(1, 1);
  // One long run of numbers, from which each tensor takes its own beginning.
  const noise = Float32Array.from({ length: 1 << 20 }, () => 0.02 * random.normal());
  return all.map(([name, shape], i) => ({
    name: `${name}.weight`,
    dtype,
    shape,
    data: async () => {
      const size = shape.reduce((product, n) => product * n, 1);
      const values = new Float32Array(size).fill(1);
      if (shape.length > 1) for (let at = 0; at < size; at++) values[at] = noise[(at * 7 + i * 104_729) & 0xfffff];
      const array = dtype === 'F32' ? values : f32ToBf16(values);
      return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    },
  }));
}
