import { contractFile, parseContract, type RunContract } from '../data/contract.js';
import type { TokenizerFiles } from '../data/tokenizer.js';
import { LowrankError } from '../util/errors.js';
import { type JsonObject, parseJsonObject } from '../util/json.js';
import { groupQuantized } from './bitsandbytes.js';
import type { Checkpoint } from './checkpoint.js';
import { openSafetensors } from './safetensors-shards.js';
import { type FileSource, type NamedFiles, readText } from './source.js';

/** A model that can be loaded, wherever it came from: Hugging Face's files as objects, and its tensors. */
export interface ModelSource {
  /** What the user wrote, for messages. */
  readonly name: string;
  /** Where it lies on this machine, an absolute path; absent where it came from the hub or from a browser's files. */
  readonly path?: string;
  /** The commit on the hub. */
  readonly revision?: string;
  /** config.json */
  readonly config: JsonObject;
  readonly tokenizer: TokenizerFiles;
  /** generation_config.json, where there is one. */
  readonly generationConfig?: JsonObject;
  /** What it was trained with here, where it is a run's result. */
  readonly contract?: RunContract;
  /** By file name, what a multimodal model says of images and sounds: it is written along. */
  readonly processors?: Readonly<Record<string, JsonObject>>;
  readonly checkpoint: Checkpoint;
  /** Says which base this is, wherever it lies: a hash over config.json, the tokenizer, and the header and some pages of the weights. */
  readonly identity: string;
}

/** The template for conversations with tools, beside chat_template.jinja. */
export const toolUseFile = 'additional_chat_templates/tool_use.jinja';

const processorFiles = ['preprocessor_config.json', 'processor_config.json'];

/** The small files of a model in Hugging Face's layout, besides its weights. */
export const modelFiles = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  toolUseFile,
  contractFile,
  ...processorFiles,
];

/** What a model says besides its weights. */
export type ModelTexts = Pick<ModelSource, 'name' | 'config' | 'tokenizer' | 'generationConfig' | 'contract' | 'processors'>;

/**
 * The small files of a model in Hugging Face's layout: config.json, tokenizer.json, and where they are there generation_config.json,
 * tokenizer_config.json, special_tokens_map.json, chat templates and lowrank.json.
 */
export async function readModelTexts(files: NamedFiles): Promise<ModelTexts> {
  const config = await readModelConfig(files);
  const { tokenizerJson, ...rest } = await readTokenizerFiles(files);
  if (!tokenizerJson) {
    throw missing(files, 'tokenizer.json', 'save the tokenizer with a current version of transformers, which writes this file');
  }
  const { tokenizerConfig = {}, chatTemplate, toolUseTemplate } = rest;
  const generationConfig = await readJson(files, 'generation_config.json');
  const text = await readText(files, contractFile);
  const contract = text === undefined ? undefined : parseContract(text, `${files.name}/${contractFile}`);
  const processors: Record<string, JsonObject> = {};
  for (const name of processorFiles) {
    const processor = await readJson(files, name);
    if (processor) processors[name] = processor;
  }
  return {
    name: files.name,
    config,
    processors,
    tokenizer: { tokenizerJson, tokenizerConfig, chatTemplate, toolUseTemplate },
    generationConfig,
    contract,
  };
}

/** config.json alone, which is enough to plan with. */
export async function readModelConfig(files: NamedFiles): Promise<JsonObject> {
  const config = await readJson(files, 'config.json');
  if (config) return config;
  throw missing(files, 'config.json', 'name a folder that holds a model, a .gguf file, or the id of a model on the hub');
}

/** The tokenizer's files that a folder holds: those of a model, or what lies beside an adapter. */
export async function readTokenizerFiles(files: NamedFiles): Promise<Partial<TokenizerFiles>> {
  // Older repositories name some special tokens only in special_tokens_map.json.
  const [map, config] = [await readJson(files, 'special_tokens_map.json'), await readJson(files, 'tokenizer_config.json')];
  return {
    tokenizerJson: await readJson(files, 'tokenizer.json'),
    tokenizerConfig: map || config ? { ...map, ...config } : undefined,
    chatTemplate: await readText(files, 'chat_template.jinja'),
    toolUseTemplate: await readText(files, toolUseFile),
  };
}

/** A model in Hugging Face's layout: its small files, and model.safetensors in one file or in shards. */
export async function openModelFiles(files: NamedFiles): Promise<ModelSource> {
  const texts = await readModelTexts(files);
  const opened = await openSafetensors(files);
  try {
    const checkpoint = await groupQuantized(opened);
    const sources = new Set([...opened.tensors.values()].map((tensor) => tensor.file));
    const headers = [...opened.tensors.values()].map(({ name, dtype, shape, offset }) => [name, dtype, shape, offset]);
    const identity = await fingerprint([...sources], JSON.stringify([texts.config, texts.tokenizer.tokenizerJson, headers]));
    return { ...texts, checkpoint, identity };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

async function readJson(files: NamedFiles, name: string): Promise<JsonObject | undefined> {
  const text = await readText(files, name);
  return text === undefined ? undefined : parseJsonObject(text, `${files.name}/${name}`);
}

function missing(files: NamedFiles, name: string, mend: string): LowrankError {
  return new LowrankError(`there is no ${name}`, { place: files.name, mend });
}

const sampleBytes = 65536;
const samplesPerFile = 16;

/**
 * Tells bases apart without reading gigabytes: SHA-256 over a text, and each file's size and evenly spread samples. Training changes nearly
 * every weight, so that a model and what was trained from it differ.
 */
export async function fingerprint(files: readonly FileSource[], text = ''): Promise<string> {
  const pieces: Uint8Array<ArrayBufferLike>[] = [new TextEncoder().encode(text)];
  for (const file of files) {
    pieces.push(new TextEncoder().encode(`\n${file.size}\n`));
    const length = Math.min(sampleBytes, Math.ceil(file.size / samplesPerFile));
    const last = file.size - length;
    for (let i = 0; i < samplesPerFile; i++) pieces.push(await file.read(Math.floor((last * i) / (samplesPerFile - 1)), length));
  }
  const digest = await crypto.subtle.digest('SHA-256', await new Blob(pieces as BlobPart[]).arrayBuffer());
  return `sha256:${Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}
