import type { Backend } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import type { Tensor } from '../core/tensor.js';
import type { Builder } from './builder.js';
import type { ForwardOptions, PackedTokens } from './context.js';
import type { LayerStream } from './layer-stream.js';
import type { Module } from './layers.js';

/** A decoder-only language model with its modules by their Hugging Face paths. */
export interface CausalLM {
  readonly backend: Backend;
  /** The dtype of activations. */
  readonly dtype: DType;
  /** config.json as it was read; what adapters and merged models are written with. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly modelType: string;
  readonly vocabulary: number;
  readonly maxPositions: number;
  /** For the key/value cache. */
  readonly cacheShape: { layers: number; width: number };
  readonly modules: ReadonlyMap<string, Module>;
  /** The path of the output projection, which `all-linear` leaves out. */
  readonly headPath: string;
  /** True where the output projection is the embedding's matrix. */
  readonly tied: boolean;
  /** Linear layers that adapters take by default (PEFT's mapping for this architecture). */
  readonly defaultTargets: readonly string[];
  /** Brings the layers' weights into memory as they are used, where they are not kept there. */
  stream?: LayerStream;
  /** Hidden states after the last norm, [T,C]. */
  hidden(tokens: PackedTokens, options?: ForwardOptions): Tensor;
  /** Logits [n,V] f32 of hidden states [n,C]. */
  logits(hidden: Tensor, options?: ForwardOptions): Tensor;
  /** Frees the tables that the model made itself; its weights belong to the checkpoint. */
  dispose(): void;
}

/** Builds one architecture from its config.json. */
export type Architecture = (config: Readonly<Record<string, unknown>>, build: Builder, backend: Backend, dtype: DType) => CausalLM;
