export const types = { F32: 0, F16: 1, Q4_1: 3 };

const bytesOf = (text: string | Uint8Array) => (typeof text === 'string' ? new TextEncoder().encode(text) : text);

/** Writes GGUF files, wrong ones too: nothing is checked. */
export class GgufBuilder {
  private readonly pairs: Uint8Array[] = [];
  private readonly tensors: Uint8Array[] = [];
  private readonly tail: Uint8Array[] = [];
  private pairCount = 0n;
  private claimed?: [bigint, bigint];
  private versionNumber = 3;
  private aligned = false;

  version(version: number): this {
    this.versionNumber = version;
    return this;
  }

  /** Counts other than the true ones. */
  counts(tensors: bigint, pairs: bigint): this {
    this.claimed = [tensors, pairs];
    return this;
  }

  pair(key: string | Uint8Array, type: number, value: Uint8Array): this {
    this.pairs.push(lengthAnd(key), u32(type), value);
    this.pairCount++;
    return this;
  }

  u32(key: string, value: number): this {
    return this.pair(key, 4, u32(value));
  }

  f32(key: string, value: number): this {
    return this.pair(key, 6, new Uint8Array(new Float32Array([value]).buffer));
  }

  string(key: string, value: string): this {
    return this.pair(key, 8, lengthAnd(value));
  }

  list(key: string, values: readonly (string | number)[]): this {
    const [type, write] = typeof values[0] === 'string' ? [8, lengthAnd] : [4, u32];
    const items = values.map((value) => (write as (value: string | number) => Uint8Array)(value));
    return this.pair(key, 9, concat([u32(type as number), u64(BigInt(values.length)), ...items]));
  }

  /** Dimensions in the file's order, fastest first. */
  tensor(name: string, dimensions: readonly bigint[], type: number, offset: bigint): this {
    this.tensors.push(concat([lengthAnd(name), u32(dimensions.length), ...dimensions.map(u64), u32(type), u64(offset)]));
    return this;
  }

  raw(bytes: Uint8Array): this {
    this.tail.push(bytes);
    return this;
  }

  pad(bytes: number): this {
    return this.raw(new Uint8Array(bytes));
  }

  /** So many bytes, from the next multiple of 32 on. */
  data(bytes: number): this {
    this.aligned = true;
    return this.pad(bytes);
  }

  build(): Uint8Array {
    const [tensors, pairs] = this.claimed ?? [BigInt(this.tensors.length), this.pairCount];
    const head = concat([bytesOf('GGUF'), u32(this.versionNumber), u64(tensors), u64(pairs), ...this.pairs, ...this.tensors]);
    const gap = new Uint8Array(this.aligned ? (32 - (head.length % 32)) % 32 : 0);
    return concat([head, gap, ...this.tail]);
  }
}

/** The metadata of a Llama with one layer, two heads of width 4 and the tokens `a`, `b`, `ab`, `<end>`. */
const llama: Record<string, string | number | (string | number)[]> = {
  'general.architecture': 'llama',
  'llama.block_count': 1,
  'llama.context_length': 16,
  'llama.embedding_length': 8,
  'llama.feed_forward_length': 8,
  'llama.attention.head_count': 2,
  'llama.attention.layer_norm_rms_epsilon': 0.5,
  'tokenizer.ggml.model': 'gpt2',
  'tokenizer.ggml.pre': 'gpt-2',
  'tokenizer.ggml.tokens': ['a', 'b', 'ab', '<end>'],
  'tokenizer.ggml.token_type': [1, 1, 1, 3],
  'tokenizer.ggml.merges': ['a b'],
  'tokenizer.ggml.eos_token_id': 3,
};

/** A whole file, with some metadata changed (undefined: left out), tensors left out and tensors of 8 elements added. */
export function tinyLlama(
  changes: Record<string, string | number | (string | number)[] | undefined> = {},
  without: string[] = [],
  added: string[] = [],
): Uint8Array {
  const builder = new GgufBuilder();
  for (const [key, value] of Object.entries({ ...llama, ...changes })) {
    if (value === undefined) continue;
    if (typeof value === 'string') builder.string(key, value);
    else if (Array.isArray(value)) builder.list(key, value);
    else if (Number.isInteger(value)) builder.u32(key, value);
    else builder.f32(key, value);
  }
  const matrices = ['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'].map((name) => `blk.0.${name}.weight`);
  const vectors = ['output_norm.weight', 'blk.0.attn_norm.weight', 'blk.0.ffn_norm.weight', ...added];
  let offset = 0n;
  const add = (name: string, dimensions: bigint[]) => {
    if (without.includes(name)) return;
    builder.tensor(name, dimensions, types.F32, offset);
    offset += dimensions.reduce((product, size) => product * size, 4n);
  };
  add('token_embd.weight', [8n, 4n]);
  for (const name of matrices) add(name, [8n, 8n]);
  for (const name of vectors) add(name, [8n]);
  return builder.data(Number(offset)).build();
}

const u32 = (value: number) => new Uint8Array(new Uint32Array([value]).buffer);
const u64 = (value: bigint) => new Uint8Array(new BigUint64Array([value]).buffer);

function lengthAnd(text: string | Uint8Array): Uint8Array {
  const bytes = bytesOf(text);
  return concat([u64(BigInt(bytes.length)), bytes]);
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
