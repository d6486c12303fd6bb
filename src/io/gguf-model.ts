import { LowrankError } from '../util/errors.js';
import type { JsonObject } from '../util/json.js';
import { type Checkpoint, convertBytes, decodeBytes, type StoredTensor, withReadAs } from './checkpoint.js';
import { type GgufFile, type GgufTensor, readGguf } from './gguf.js';
import { ggufConfig } from './gguf-config.js';
import { GgufMetadata } from './gguf-metadata.js';
import { ggufTokenizer } from './gguf-tokenizer.js';
import { fingerprint, type ModelSource } from './model-source.js';
import type { FileSource } from './source.js';

/**
 * A model out of one GGUF file: config.json and the tokenizer's files are rebuilt from its metadata, tensors get Hugging Face's names and
 * row order, and are decoded as they are read. Closes the file where it is not a model of a known architecture.
 */
export async function openGguf(file: FileSource): Promise<ModelSource> {
  try {
    const gguf = await readGguf(file);
    const metadata = new GgufMetadata(file.name, gguf.metadata);
    checkWhole(metadata);
    const config = await ggufConfig(gguf, metadata);
    return {
      name: file.name,
      config,
      tokenizer: ggufTokenizer(metadata),
      checkpoint: ggufCheckpoint(gguf, config),
      identity: await fingerprint([file]),
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function checkWhole(metadata: GgufMetadata): void {
  const parts = metadata.count('split.count') ?? 1;
  if (parts > 1) {
    throw metadata.error('split.count', `the model is split into ${parts} files`, 'one file', 'join them with llama-gguf-split --merge');
  }
}

/** llama.cpp's names of a layer's modules. */
const layerModules: ReadonlyMap<string, string> = new Map([
  ['attn_norm', 'input_layernorm'],
  ['attn_q', 'self_attn.q_proj'],
  ['attn_k', 'self_attn.k_proj'],
  ['attn_v', 'self_attn.v_proj'],
  ['attn_output', 'self_attn.o_proj'],
  ['ffn_norm', 'post_attention_layernorm'],
  ['ffn_gate', 'mlp.gate_proj'],
  ['ffn_up', 'mlp.up_proj'],
  ['ffn_down', 'mlp.down_proj'],
]);

const topModules: ReadonlyMap<string, string> = new Map([
  ['token_embd', 'model.embed_tokens'],
  ['output_norm', 'model.norm'],
  ['output', 'lm_head'],
]);

function huggingFaceName(name: string): string | undefined {
  const [, layer, module, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name) ?? [];
  const path = layer === undefined ? topModules.get(module) : layerModules.get(module);
  if (path === undefined) return undefined;
  return layer === undefined ? `${path}.${kind}` : `model.layers.${layer}.${path}.${kind}`;
}

function ggufCheckpoint({ file, tensors }: GgufFile, config: JsonObject): Checkpoint {
  const stored = new Map<string, StoredTensor>();
  for (const tensor of tensors.values()) {
    // The rotary factors are in config.json by now.
    if (tensor.name === 'rope_freqs.weight') continue;
    const name = huggingFaceName(tensor.name);
    if (!name) {
      const mend = 'take a file of a plain Llama (no mixture of experts, no adapter, no projector)';
      throw new LowrankError('has no place in a Llama', { place: `${file.name}: tensor "${tensor.name}"`, mend });
    }
    const heads = /q_proj/.test(name) ? config.num_attention_heads : /k_proj/.test(name) ? config.num_key_value_heads : undefined;
    stored.set(name, storedTensor(file, tensor, name, heads as number | undefined));
  }
  return { tensors: stored, metadata: {}, close: () => file.close() };
}

/** `heads`: of a projection whose rows the converter permuted. */
function storedTensor(file: FileSource, tensor: GgufTensor, name: string, heads: number | undefined): StoredTensor {
  const { type, shape, offset, byteLength } = tensor;
  const place = `${file.name}: tensor "${tensor.name}"`;
  if (heads !== undefined && shape[0] % (2 * heads) !== 0) {
    throw new LowrankError(`has ${shape[0]} rows`, { place, expected: `a multiple of 2 × ${heads} heads`, mend: 'convert the file again' });
  }
  const read = () => file.read(offset, byteLength);
  const readInto: StoredTensor['readInto'] = async (to, write) => {
    const bytes = heads === undefined ? await read() : unpermuteRows(await read(), shape[0], heads);
    const { decode } = type;
    return decode ? decodeBytes(bytes, { ...type, decode }, to, write) : convertBytes(bytes, type.name, to, place, write);
  };
  const inPlace = !type.decode && heads === undefined;
  return withReadAs({ name, dtype: type.name, shape, file, offset, byteLength, inPlace, read, readInto });
}

/**
 * llama.cpp rotates neighbouring elements where Hugging Face rotates the halves of a head, so its converter interleaves the halves of each
 * head's rows; this puts them back: row p D/2 + j of a head was stored as row 2 j + p.
 */
function unpermuteRows(stored: Uint8Array, rows: number, heads: number): Uint8Array {
  const rowBytes = stored.length / rows;
  const half = rows / heads / 2;
  const result = new Uint8Array(stored.length);
  for (let head = 0; head < heads; head++) {
    for (let j = 0; j < half; j++) {
      for (let p = 0; p < 2; p++) {
        const from = (head * 2 * half + 2 * j + p) * rowBytes;
        result.set(stored.subarray(from, from + rowBytes), (head * 2 * half + p * half + j) * rowBytes);
      }
    }
  }
  return result;
}
