import { empty, type Tensor } from '../core/tensor.js';
import { contractFile } from '../data/contract.js';
import type { JsonObject, JsonValue } from '../util/json.js';
import { type StoredTensor, transposeBytes } from './checkpoint.js';
import type { Folder } from './folder.js';
import { type ModelTexts, toolUseFile } from './model-source.js';
import type { TensorToWrite } from './safetensors.js';
import { writeCheckpoint } from './safetensors-shards.js';

/** What a model's tensors are stored as; block-quantised ones become BF16. */
export type PlainType = 'f32' | 'bf16' | 'f16';

const plainTypes: ReadonlyMap<string, PlainType> = new Map([
  ['F32', 'f32'],
  ['BF16', 'bf16'],
  ['F16', 'f16'],
]);

/** The plain dtype nearest to a stored one. */
export function plainType(stored: string): PlainType {
  return plainTypes.get(stored) ?? 'bf16';
}

/** The plain dtype of most elements. */
export function mainType(tensors: Iterable<{ readonly dtype: string; readonly shape: readonly number[] }>): PlainType {
  const sizes = new Map<PlainType, number>();
  for (const { dtype, shape } of tensors) {
    const type = plainType(dtype);
    sizes.set(type, (sizes.get(type) ?? 0) + shape.reduce((product, n) => product * n, 1));
  }
  return [...sizes].sort(([, a], [, b]) => b - a)[0]?.[0] ?? 'bf16';
}

/** Numbers of config.json that transformers takes with a point alone, where JavaScript writes them without one. */
const wholeFloats = /^( {2}"(?:router_jitter_noise|router_aux_loss_coef|initializer_range)": -?\d+)(?=,?$)/gm;

/** A model to be written: its tensors and its config.json. */
export interface ModelToWrite {
  tensors: TensorToWrite[];
  config: Readonly<Record<string, unknown>>;
  /** How the tensors are quantised, where they are. */
  quantizationConfig?: Readonly<Record<string, unknown>>;
}

/** A tensor as it is stored; what a safetensors file cannot hold becomes bf16. */
export function asStored(stored: StoredTensor): TensorToWrite {
  const { name, dtype, shape, inPlace, read, readAs } = stored;
  if (inPlace) return { name, dtype, shape, data: read };
  const plain = plainType(dtype);
  return inFileOrder({ name, dtype: plain.toUpperCase(), shape, data: () => readAs(plain) }, stored);
}

/** What is written in the place of a stored tensor: under the file's name for it, and in the file's order. */
export function inFileOrder(tensor: TensorToWrite, stored: StoredTensor | undefined): TensorToWrite {
  if (!stored) return tensor;
  const { name, fanInFanOut } = stored;
  if (!fanInFanOut) return { ...tensor, name };
  const [outputs, inputs] = tensor.shape;
  const { data } = tensor;
  return { ...tensor, name, shape: [inputs, outputs], data: async () => transposeBytes(await data(), outputs, inputs) };
}

const torchNames: Readonly<Record<PlainType, string>> = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' };

/** What is written beside a model's weights. */
export type TextsToWrite = Pick<ModelTexts, 'tokenizer' | 'generationConfig' | 'contract' | 'processors'>;

/**
 * Writes a model in Hugging Face's layout: weights in one file or in shards, generation_config.json, the tokenizer's files, lowrank.json
 * where it is a run's result and, last, config.json, whose `dtype` is that of most elements.
 */
export async function writeModel(
  folder: Folder,
  { tensors, config, quantizationConfig }: ModelToWrite,
  texts: TextsToWrite,
  { maxShardBytes }: { maxShardBytes?: number } = {},
): Promise<void> {
  await writeCheckpoint(folder, tensors, { maxShardBytes });
  await writeJson(folder, 'generation_config.json', texts.generationConfig ?? generationConfigOf(config));
  await writeTokenizer(folder, texts);
  await writeContract(folder, texts);
  for (const [name, processor] of Object.entries(texts.processors ?? {})) await writeJson(folder, name, processor);
  const { torch_dtype: _, quantization_config: __, ...rest } = config;
  const quantization = quantizationConfig && { quantization_config: quantizationConfig };
  const dtype = torchNames[mainType(tensors)];
  const text = JSON.stringify({ ...rest, dtype, ...quantization }, null, 2);
  await folder.writeText('config.json', `${text.replace(wholeFloats, '$1.0')}\n`);
}

/** tokenizer.json, tokenizer_config.json and, where there are some, chat templates. */
export async function writeTokenizer(folder: Folder, { tokenizer }: TextsToWrite): Promise<void> {
  const { tokenizerJson, tokenizerConfig, chatTemplate, toolUseTemplate } = tokenizer;
  await folder.writeText('tokenizer.json', JSON.stringify(tokenizerJson));
  await writeJson(folder, 'tokenizer_config.json', tokenizerConfig ?? {});
  if (chatTemplate !== undefined) await folder.writeText('chat_template.jinja', chatTemplate);
  if (toolUseTemplate !== undefined) await folder.writeText(toolUseFile, toolUseTemplate);
}

/** lowrank.json, where there is a contract. */
export async function writeContract(folder: Folder, { contract }: Pick<ModelTexts, 'contract'>): Promise<void> {
  if (contract) await writeJson(folder, contractFile, contract);
}

function writeJson(folder: Folder, name: string, value: unknown): Promise<void> {
  return folder.writeText(name, `${JSON.stringify(value, null, 2)}\n`);
}

/** What transformers takes from config.json where a model has no generation_config.json. */
export function generationConfigOf(config: Readonly<Record<string, unknown>>): JsonObject {
  const keys = ['bos_token_id', 'eos_token_id', 'pad_token_id'].filter((key) => config[key] !== undefined);
  return { _from_model_config: true, ...Object.fromEntries(keys.map((key) => [key, config[key] as JsonValue])) };
}

/** The bytes of an f32 tensor in a plain dtype, rounded to nearest even. */
export async function bytesAs(tensor: Tensor, dtype: PlainType): Promise<Uint8Array> {
  if (dtype === 'f32') return tensor.read();
  const rounded = empty(tensor.backend, tensor.shape, dtype, 'workspace');
  try {
    tensor.backend.run('cast', { x: tensor }, { out: rounded }, {});
    return await rounded.read();
  } finally {
    rounded.dispose();
  }
}
