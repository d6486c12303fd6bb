/** A synthetic model as a GGUF file, for llama.cpp: the same weights in the order and under the names of its converter. */
import { closeSync, existsSync, ftruncateSync, openSync, renameSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { StoredTensor } from '#lowrank/io/checkpoint.js';
import type { JsonObject } from '#lowrank/util/json.js';
import { openSynthetic, syntheticModel } from './shapes.js';

/** GGUF's numbers of the element types (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and of whole files in them. */
const types = { F32: 0, F16: 1, BF16: 30 };
const fileTypes = { F16: 1, BF16: 32 };
const readTypes = { F32: 'f32', F16: 'f16', BF16: 'bf16' } as const;
type MatrixType = 'F16' | 'BF16';

const alignment = 32;
const padded = (bytes: number) => Math.ceil(bytes / alignment) * alignment;

const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer);
const u64 = (value: number) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);
const text = (value: string) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);
const pair = {
  u32: (key: string, value: number) => Buffer.concat([text(key), u32(4), u32(value)]),
  f32: (key: string, value: number) => Buffer.concat([text(key), u32(6), Buffer.from(Float32Array.of(value).buffer)]),
  string: (key: string, value: string) => Buffer.concat([text(key), u32(8), text(value)]),
  strings: (key: string, values: readonly string[]) => Buffer.concat([text(key), u32(9), u32(8), u64(values.length), ...values.map(text)]),
};

const moduleNames: Readonly<Record<string, string>> = {
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
  input_layernorm: 'attn_norm',
  post_attention_layernorm: 'ffn_norm',
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  lm_head: 'output',
};

function ggufName(name: string): string {
  const [, layer, module] = /^(?:model\.layers\.(\d+)\.)?(.+)\.weight$/.exec(name) ?? [];
  return `${layer === undefined ? '' : `blk.${layer}.`}${moduleNames[module]}.weight`;
}

/** llama.cpp rotates neighbours where Hugging Face rotates the halves of a head: row p D/2 + j of a head becomes row 2 j + p. */
function interleaveHalves(bytes: Uint8Array, rows: number, heads: number): Uint8Array {
  const [rowBytes, half] = [bytes.length / rows, rows / heads / 2];
  const result = new Uint8Array(bytes.length);
  for (let row = 0; row < rows; row++) {
    const [head, within] = [Math.floor(row / (2 * half)), row % (2 * half)];
    const to = head * 2 * half + 2 * (within % half) + Math.floor(within / half);
    result.set(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), to * rowBytes);
  }
  return result;
}

function metadataOf(config: JsonObject, type: MatrixType): Buffer[] {
  const number = (key: string) => Number(config[key]);
  return [
    pair.string('general.architecture', 'llama'),
    pair.u32('general.file_type', fileTypes[type]),
    pair.u32('llama.block_count', number('num_hidden_layers')),
    pair.u32('llama.context_length', number('max_position_embeddings')),
    pair.u32('llama.embedding_length', number('hidden_size')),
    pair.u32('llama.feed_forward_length', number('intermediate_size')),
    pair.u32('llama.attention.head_count', number('num_attention_heads')),
    pair.u32('llama.attention.head_count_kv', number('num_key_value_heads')),
    pair.f32('llama.attention.layer_norm_rms_epsilon', number('rms_norm_eps')),
    pair.u32('llama.rope.dimension_count', number('hidden_size') / number('num_attention_heads')),
    pair.f32('llama.rope.freq_base', number('rope_theta')),
    // Token ids go in and out; llama.cpp wants a tokenizer all the same.
    pair.string('tokenizer.ggml.model', 'gpt2'),
    pair.string('tokenizer.ggml.pre', 'gpt-2'),
    pair.strings(
      'tokenizer.ggml.tokens',
      Array.from({ length: number('vocab_size') }, (_, id) => `<${id}>`),
    ),
    pair.strings('tokenizer.ggml.merges', []),
  ];
}

/** Writes a Llama, its matrices in `type` and its vectors in F32. */
export async function writeGguf(path: string, stored: Iterable<StoredTensor>, config: JsonObject, type: MatrixType): Promise<void> {
  let offset = 0;
  const tensors = [...stored].map((tensor) => {
    const { name, shape } = tensor;
    const dtype: 'F32' | MatrixType = shape.length === 1 ? 'F32' : type;
    const bytes = padded(shape.reduce((product, n) => product * n, dtype === 'F32' ? 4 : 2));
    const info = [text(ggufName(name)), u32(shape.length), ...[...shape].reverse().map(u64), u32(types[dtype]), u64(offset)];
    offset += bytes;
    const [, projection] = /\.([qk])_proj\./.exec(name) ?? [];
    const heads = projection && Number(config[projection === 'q' ? 'num_attention_heads' : 'num_key_value_heads']);
    return { tensor, info: Buffer.concat(info), at: offset - bytes, dtype, heads };
  });
  const metadata = metadataOf(config, type);
  const counts = [u64(tensors.length), u64(metadata.length)];
  const header = Buffer.concat([Buffer.from('GGUF'), u32(3), ...counts, ...metadata, ...tensors.map(({ info }) => info)]);
  const file = openSync(path, 'w');
  try {
    writeSync(file, header);
    for (const { tensor, at, dtype, heads } of tensors) {
      const rows = await tensor.readAs(readTypes[dtype]);
      const bytes = heads ? interleaveHalves(rows, tensor.shape[0], heads) : rows;
      for (let done = 0; done < bytes.length; )
        done += writeSync(file, bytes, done, bytes.length - done, padded(header.length) + at + done);
    }
    ftruncateSync(file, padded(header.length) + offset);
  } finally {
    closeSync(file);
  }
}

/** The file of a synthetic model, written once. */
export async function syntheticGguf(shape: string, type: MatrixType): Promise<string> {
  const folder = await syntheticModel(shape, 'BF16');
  const path = join(folder, `model.${type}.gguf`);
  if (existsSync(path)) return path;
  const { checkpoint, config } = await openSynthetic(folder, shape);
  await writeGguf(`${path}.tmp`, checkpoint.tensors.values(), config, type);
  await checkpoint.close();
  renameSync(`${path}.tmp`, path);
  return path;
}
