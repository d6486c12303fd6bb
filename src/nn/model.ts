import type { Backend } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import type { Tensor } from '../core/tensor.js';
import type { ForwardOptions, PackedTokens } from './context.js';
import type { LayerStream } from './layer-stream.js';
import type { Module } from './layers.js';

/** The paths of a model's parts, as its checkpoints name them. */
export interface ModelPaths {
  readonly embedding: string;
  /** The numbered layers: `model.layers`. */
  readonly layers: string;
  /** The last norm. */
  readonly norm: string;
  /** The output projection, which `all-linear` leaves out. */
  readonly head: string;
}

/** A decoder-only language model with its modules by their Hugging Face paths. */
export interface CausalLM {
  readonly backend: Backend;
  /** The dtype of activations. */
  readonly dtype: DType;
  /** config.json; what adapters and merged models are written with. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly paths: ModelPaths;
  readonly vocabulary: number;
  readonly maxPositions: number;
  readonly modules: ReadonlyMap<string, Module>;
  /**
   * Of experts, the parameters [E,out,in] that transformers makes of their weights: for each expert the paths of the linear layers whose
   * outputs follow each other.
   */
  readonly stacks?: ReadonlyMap<string, readonly (readonly string[])[]>;
  /** Modules that transformers has in memory by another path than checkpoints. */
  readonly aliases?: ReadonlyMap<string, string>;
  /** True where the output projection is the embedding's matrix. */
  readonly tied: boolean;
  /**
   * Of mixtures of experts: how many layers have one, of how many experts, how many answer for a token, and config.json's factor of
   * their balancing loss.
   */
  readonly mixtures?: { readonly layers: number; readonly experts: number; readonly perToken: number; readonly balanceFactor: number };
  /** The factor of the balancing loss in training; 0 or absent for none. */
  balanceFactor?: number;
  /** Linear layers that adapters take by default (PEFT's mapping for this architecture). */
  readonly defaultTargets: readonly string[];
  /** Paths of what a multimodal model has besides this one: of what sees or hears, which is neither loaded nor trained. */
  readonly otherParts: readonly string[];
  /** Matrices that files hold as [in,out], by their names. */
  readonly fanInFanOut?: RegExp;
  /** Brings the layers' weights into memory as they are used, where they are not kept there. */
  stream?: LayerStream;
  /** Hidden states after the last norm, [T,C]. */
  hidden(tokens: PackedTokens, pass?: ForwardOptions): Tensor;
  /** Logits [n,V] f32 of hidden states [n,C]. */
  logits(hidden: Tensor, pass?: ForwardOptions): Tensor;
  /** The soft cap of the logits; 0 for none. */
  readonly logitSoftcap: number;
  /** The same logits before their cap: the loss brings that in itself (`linearCrossEntropy`). */
  uncappedLogits(hidden: Tensor, pass?: ForwardOptions): Tensor;
  /** Frees the tables that the model made itself; its weights belong to the checkpoint. */
  dispose(): void;
}
