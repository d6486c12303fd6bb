import { LowrankError, nearest } from '../util/errors.js';
import { type ModelShape, shapeOf } from './shape.js';

/** C, F, L, H, G, V and what else the config.json of a model says. */
type Row = readonly [C: number, F: number, L: number, H: number, G: number, V: number, more?: Readonly<Record<string, unknown>>];

const tied = { tie_word_embeddings: true };

/**
 * Models by name, a family each under its model_type: what their config.json on the hub says (meta-llama, Qwen, google, mistralai,
 * HuggingFaceTB, TinyLlama), for the first Llama the sizes of Touvron et al. 2023, table 2. The tests hold the published counts of parameters.
 */
const table: Readonly<Record<string, Readonly<Record<string, Row>>>> = {
  llama: {
    'llama-1-7b': [4096, 11008, 32, 32, 32, 32000],
    'llama-1-13b': [5120, 13824, 40, 40, 40, 32000],
    'llama-1-33b': [6656, 17920, 60, 52, 52, 32000],
    'llama-1-65b': [8192, 22016, 80, 64, 64, 32000],
    'llama-2-7b': [4096, 11008, 32, 32, 32, 32000],
    'llama-2-13b': [5120, 13824, 40, 40, 40, 32000],
    'llama-2-70b': [8192, 28672, 80, 64, 8, 32000],
    'llama-3.1-8b': [4096, 14336, 32, 32, 8, 128256],
    'llama-3.1-70b': [8192, 28672, 80, 64, 8, 128256],
    'llama-3.2-1b': [2048, 8192, 16, 32, 8, 128256, tied],
    'llama-3.2-3b': [3072, 8192, 28, 24, 8, 128256, tied],
    'smollm2-135m': [576, 1536, 30, 9, 3, 49152, tied],
    'smollm2-360m': [960, 2560, 32, 15, 5, 49152, tied],
    'smollm2-1.7b': [2048, 8192, 24, 32, 32, 49152, tied],
    'tinyllama-1.1b': [2048, 5632, 22, 32, 4, 32000],
  },
  mistral: {
    'mistral-7b': [4096, 14336, 32, 32, 8, 32000],
    'mistral-7b-v0.3': [4096, 14336, 32, 32, 8, 32768],
  },
  qwen2: {
    'qwen2.5-0.5b': [896, 4864, 24, 14, 2, 151936, tied],
    'qwen2.5-1.5b': [1536, 8960, 28, 12, 2, 151936, tied],
    'qwen2.5-3b': [2048, 11008, 36, 16, 2, 151936, tied],
    'qwen2.5-7b': [3584, 18944, 28, 28, 4, 152064],
    'qwen2.5-14b': [5120, 13824, 48, 40, 8, 152064],
    'qwen2.5-32b': [5120, 27648, 64, 40, 8, 152064],
    'qwen2.5-72b': [8192, 29568, 80, 64, 8, 152064],
  },
  qwen3: {
    'qwen3-0.6b': [1024, 3072, 28, 16, 8, 151936, { ...tied, head_dim: 128 }],
    'qwen3-1.7b': [2048, 6144, 28, 16, 8, 151936, { ...tied, head_dim: 128 }],
    'qwen3-4b': [2560, 9728, 36, 32, 8, 151936, { ...tied, head_dim: 128 }],
    'qwen3-8b': [4096, 12288, 36, 32, 8, 151936, { head_dim: 128 }],
    'qwen3-14b': [5120, 17408, 40, 40, 8, 151936, { head_dim: 128 }],
    'qwen3-32b': [5120, 25600, 64, 64, 8, 151936, { head_dim: 128 }],
  },
  gemma2: {
    'gemma-2-2b': [2304, 9216, 26, 8, 4, 256000, { head_dim: 256 }],
    'gemma-2-9b': [3584, 14336, 42, 16, 8, 256000, { head_dim: 256 }],
    'gemma-2-27b': [4608, 36864, 46, 32, 16, 256000, { head_dim: 128 }],
  },
};

const known: ReadonlyMap<string, ModelShape> = new Map(
  Object.entries(table).flatMap(([model_type, rows]) =>
    Object.entries(rows).map(([name, [C, F, L, H, G, V, more]]) => {
      const sizes = { hidden_size: C, intermediate_size: F, num_hidden_layers: L, num_attention_heads: H, num_key_value_heads: G };
      return [name, shapeOf({ model_type, ...sizes, vocab_size: V, ...more }, name)] as const;
    }),
  ),
);

export const shapeNames: readonly string[] = [...known.keys()];

/** The shape that is known under a name, whatever the case of its letters. */
export function knownShape(name: string): ModelShape | undefined {
  return known.get(name.toLowerCase());
}

/** The error for a model that is neither a known shape nor found in any other way. */
export function unknownShape(name: string): LowrankError {
  const near = nearest(name.toLowerCase(), shapeNames);
  return new LowrankError(`"${name}" is neither a model's folder, an id of the hub nor a known shape`, {
    place: '--model',
    expected: shapeNames.join(', '),
    mend: near ? `write "${near}"` : 'name one of these, or a folder with a config.json',
  });
}
