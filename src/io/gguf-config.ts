import { LowrankError } from '../util/errors.js';
import type { JsonObject } from '../util/json.js';
import type { GgufFile } from './gguf.js';
import type { GgufLayout } from './gguf-layout.js';
import type { GgufMetadata } from './gguf-metadata.js';

/**
 * config.json as Hugging Face has it, from the metadata (names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
 */
export async function ggufConfig(
  gguf: GgufFile,
  metadata: GgufMetadata,
  { architecture, config, numbers = {}, flags = {}, renamed = {}, permuted, attentionLayers }: GgufLayout,
): Promise<JsonObject> {
  const key = (name: string) => `${architecture}.${name}`;
  const count = (name: string) => {
    const value = metadata.required(key(name), metadata.count(key(name)));
    if (value > 0) return value;
    throw metadata.error(key(name), 'is 0', 'a positive number');
  };
  const heads = count('attention.head_count');
  const width = count('embedding_length');
  const headDim = metadata.count(key('attention.key_length')) ?? width / heads;
  const rotated = metadata.count(key('rope.dimension_count')) ?? headDim;
  // Where rows were permuted, it was whole heads of them.
  if (rotated !== headDim && Object.keys(permuted).length > 0) {
    throw metadata.error(key('rope.dimension_count'), `is ${rotated}`, `${headDim}, the width of a head`);
  }
  const id = (name: string) => metadata.count(`tokenizer.ggml.${name}_token_id`);
  // A chat model may end a turn (eot) and a message (eom) with other tokens than a text.
  const ends = [...new Set([id('eos'), id('eot'), id('eom')].filter((end) => end !== undefined))];
  const tensor = (name: string) => gguf.tensors.get(name);
  const embedding = tensor('token_embd.weight');
  if (!embedding)
    throw new LowrankError('there is no tensor "token_embd.weight"', { place: gguf.file.name, mend: 'take a file of a whole model' });
  const contextLength = count('context_length');
  const groups = metadata.counts(key('attention.head_count_kv')) ?? [];
  const attending = [...groups.keys()].filter((layer) => groups[layer] > 0);
  const epsilon = key('attention.layer_norm_rms_epsilon');
  const named = [
    ...Object.entries(numbers).map(([name, to]) => [to, metadata.number(key(name))]),
    ...Object.entries(flags).map(([name, to]) => [to, metadata.boolean(key(name))]),
  ];
  const result: JsonObject = {
    ...config,
    ...Object.fromEntries(named.filter(([, value]) => value !== undefined)),
    vocab_size: embedding.shape[0],
    hidden_size: width,
    intermediate_size: count('feed_forward_length'),
    num_hidden_layers: count('block_count'),
    num_attention_heads: heads,
    num_key_value_heads: groups.reduce((most, n) => Math.max(most, n), 0) || heads,
    ...(attentionLayers && groups.length > 1 && { [attentionLayers]: attending }),
    head_dim: headDim,
    max_position_embeddings: contextLength,
    rms_norm_eps: metadata.number(key('attention.layer_norm_epsilon')) ?? metadata.required(epsilon, metadata.number(epsilon)),
    attention_bias: (tensor('blk.0.attn_q.bias') ?? tensor('blk.0.attn_qkv.bias')) !== undefined,
    mlp_bias: tensor('blk.0.ffn_up.bias') !== undefined,
    tie_word_embeddings: tensor('output.weight') === undefined,
    rope_parameters: {
      ...(await ropeParameters(gguf, metadata, architecture, { headDim, contextLength })),
      ...(rotated !== headDim && { partial_rotary_factor: rotated / headDim }),
    },
    bos_token_id: id('bos') ?? null,
    eos_token_id: ends.length > 1 ? ends : (ends[0] ?? null),
    pad_token_id: id('padding') ?? null,
  };
  for (const [usual, own] of Object.entries(renamed)) result[own] = result[usual];
  return result;
}

/** Linear and yarn scaling are in the metadata; Llama 3's is a tensor of divisors, one for each frequency. */
async function ropeParameters(
  gguf: GgufFile,
  metadata: GgufMetadata,
  architecture: string,
  { headDim, contextLength }: { headDim: number; contextLength: number },
): Promise<JsonObject> {
  const rope = (key: string) => `${architecture}.rope.${key}`;
  const rope_theta = metadata.number(rope('freq_base')) ?? 10000;
  const scaling = (key: string) => metadata.number(rope(`scaling.${key}`));
  const factor = scaling('factor') ?? metadata.number(rope('scale_linear'));
  const type = metadata.string(rope('scaling.type')) ?? (factor === undefined ? 'none' : 'linear');
  const divisors = gguf.tensors.get('rope_freqs.weight');
  if (divisors) {
    const bytes = (await divisors.file.read(divisors.offset, divisors.byteLength)).slice();
    const place = `${gguf.file.name}: tensor "rope_freqs.weight"`;
    if (divisors.type.name !== 'F32')
      throw new LowrankError(`has the type ${divisors.type.name}`, {
        place,
        expected: 'F32',
        mend: 'convert the model again',
      });
    return { rope_theta, ...llama3Scaling(new Float32Array(bytes.buffer), rope_theta, headDim, place) };
  }
  if (type === 'none' || factor === undefined) return { rope_type: 'default', rope_theta };
  if (type === 'linear') return { rope_type: 'linear', rope_theta, factor };
  if (type !== 'yarn') throw metadata.error(rope('scaling.type'), `is "${type}"`, 'none, linear or yarn');
  // llama.cpp multiplies the usual attention factor; Hugging Face replaces it.
  const multiplier = scaling('attn_factor');
  const optional = {
    attention_factor: multiplier && multiplier * (1 + 0.1 * Math.log(factor)),
    beta_fast: scaling('yarn_beta_fast'),
    beta_slow: scaling('yarn_beta_slow'),
  };
  return {
    rope_type: 'yarn',
    rope_theta,
    factor,
    original_max_position_embeddings: metadata.count(rope('scaling.original_context_length')) ?? contextLength,
    ...Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)),
  };
}

/** What all of Meta's Llama 3.1 to 3.3 have; the file keeps only what follows from it. */
const llama3 = { rope_type: 'llama3', low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };

/** Recovers the factor, which divides the lowest frequency, and checks that the others follow from it. */
function llama3Scaling(divisors: Float32Array, theta: number, headDim: number, place: string): JsonObject {
  const factor = divisors.reduce((most, divisor) => Math.max(most, divisor), 0);
  const expected = Array.from({ length: headDim / 2 }, (_, i) => {
    const turns = (llama3.original_max_position_embeddings * theta ** ((-2 * i) / headDim)) / (2 * Math.PI);
    const smooth = (turns - llama3.low_freq_factor) / (llama3.high_freq_factor - llama3.low_freq_factor);
    return 1 / ((1 - Math.min(1, Math.max(0, smooth))) / factor + Math.min(1, Math.max(0, smooth)));
  });
  const agrees = divisors.length === expected.length && expected.every((value, i) => Math.abs(divisors[i] - value) <= 1e-4 * value);
  if (agrees && factor > 1) return { ...llama3, factor };
  if (agrees) return { rope_type: 'default' };
  throw new LowrankError('is not a scaling of Llama 3', { place, mend: 'use the safetensors of this model' });
}
