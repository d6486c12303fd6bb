import type { Backend } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import { discard, scope } from '../core/scope.js';
import { type Results, recompute } from '../core/tape.js';
import { fromArray, type Tensor } from '../core/tensor.js';
import { add, scale, softcap } from '../ops/index.js';
import { LowrankError } from '../util/errors.js';
import type { Builder } from './builder.js';
import type { ForwardOptions, LayerContext, PackedTokens } from './context.js';
import type { LayerStream } from './layer-stream.js';
import type { Embedding, Linear, Norm } from './layers.js';
import type { CausalLM, ModelPaths } from './model.js';
import { Offload } from './offload.js';
import type { RotaryEmbedding } from './rotary.js';

/** One layer of a decoder. */
export interface DecoderLayer {
  /**
   * x [T,C] → its output [T,C] and, by name, what is dear to compute and small to keep. With `kept`, the same of an earlier pass, only what
   * a backward pass needs besides is computed.
   */
  forward(x: Tensor, context: LayerContext, kept?: Results): Results;
}

/** What a family builds from a checkpoint. */
export interface DecoderParts {
  readonly embedding: Embedding;
  /** Learned positions, which are added to the embeddings. */
  readonly positions?: Embedding;
  readonly layers: readonly DecoderLayer[];
  readonly norm: Norm;
  readonly head: Linear;
  /** Factor of the embeddings, and of the hidden states before the output projection; 1 where absent. */
  readonly embeddingScale?: number;
  readonly logitScale?: number;
  /** Soft cap of the logits; 0, as by default, for none. */
  readonly logitSoftcap?: number;
  /** All that the layers use, whose tables grow with the longest sequence. */
  readonly rotaries: readonly RotaryEmbedding[];
  readonly maxPositions: number;
  /** Of mixtures of experts, as CausalLM has them. */
  readonly mixtures?: CausalLM['mixtures'];
  /** Whether config.json wants their balancing loss. */
  readonly balanced?: boolean;
}

/** What is known of a model without its weights. */
export interface DecoderFacts {
  readonly config: Readonly<Record<string, unknown>>;
  readonly paths: ModelPaths;
  readonly defaultTargets: readonly string[];
  readonly otherParts?: readonly string[];
  readonly fanInFanOut?: RegExp;
}

/** Where a model computes, the dtype of its activations, and its modules by path. */
export interface DecoderPlace {
  readonly backend: Backend;
  readonly dtype: DType;
  readonly built: Pick<Builder, 'modules' | 'stacks' | 'aliases'>;
}

/** A decoder-only language model: embedding, layers one after the other, norm, output projection. */
export class Decoder implements CausalLM {
  readonly backend: Backend;
  readonly dtype: DType;
  readonly config: Readonly<Record<string, unknown>>;
  readonly paths: ModelPaths;
  readonly defaultTargets: readonly string[];
  readonly otherParts: readonly string[];
  readonly fanInFanOut?: RegExp;
  readonly modules: Builder['modules'];
  readonly stacks: Builder['stacks'];
  readonly aliases: Builder['aliases'];
  readonly vocabulary: number;
  readonly maxPositions: number;
  readonly tied: boolean;
  readonly mixtures?: CausalLM['mixtures'];
  balanceFactor?: number;
  readonly logitSoftcap: number;
  stream?: LayerStream;
  private readonly parts: DecoderParts;

  constructor(
    { config, paths, defaultTargets, otherParts = [], fanInFanOut }: DecoderFacts,
    parts: DecoderParts,
    { backend, dtype, built }: DecoderPlace,
  ) {
    const { weight } = parts.embedding;
    this.backend = backend;
    this.dtype = dtype;
    this.config = config;
    this.paths = paths;
    this.defaultTargets = defaultTargets;
    this.otherParts = otherParts;
    this.fanInFanOut = fanInFanOut;
    this.modules = built.modules;
    this.stacks = built.stacks;
    this.aliases = built.aliases;
    this.parts = parts;
    [this.vocabulary] = weight.shape;
    this.maxPositions = parts.maxPositions;
    this.mixtures = parts.mixtures;
    if (parts.balanced) this.balanceFactor = parts.mixtures?.balanceFactor;
    this.tied = parts.head.weight === weight;
    this.logitSoftcap = parts.logitSoftcap ?? 0;
  }

  hidden(tokens: PackedTokens, pass: ForwardOptions = {}): Tensor {
    const { parts } = this;
    return scope(() => {
      const context = this.contextOf(tokens, pass);
      let x = scale(parts.embedding.forward(tokens.inputIds, this.dtype), parts.embeddingScale ?? 1);
      if (parts.positions) x = add(x, parts.positions.forward(tokens.positions, this.dtype));
      const runLayer = this.layerRunner(context);
      for (const [index, layer] of parts.layers.entries()) {
        const input = x;
        x = runLayer(index, layer, input);
        discard(input);
      }
      return parts.norm.forward(x);
    });
  }

  private contextOf(tokens: PackedTokens, pass: ForwardOptions): LayerContext {
    const { backend } = this;
    const length = tokens.positions.reduce((longest, position) => Math.max(longest, position), 0) + 1;
    if (this.parts.positions && length > this.maxPositions) {
      throw new LowrankError(`a sequence has ${length} tokens`, {
        place: 'the model',
        expected: `at most ${this.maxPositions}, as many as it has learned positions of`,
        mend: 'cut it: sequence_len in a recipe, max_new_tokens for answers',
      });
    }
    return {
      positions: fromArray(backend, tokens.positions),
      segments: { table: fromArray(backend, tokens.segments, [tokens.segments.length / 4, 4]), rows: tokens.segments },
      ropeTables: (rotary) => rotary.upTo(length),
      cacheRows: pass.cacheRows && fromArray(backend, pass.cacheRows),
      pass,
    };
  }

  /** How the layers of a pass are run: with their weights brought in, and with little kept where the rest is to be computed again. */
  private layerRunner(context: LayerContext): (index: number, layer: DecoderLayer, x: Tensor) => Tensor {
    const { stream, parts } = this;
    const { pass } = context;
    const withWeights = <R>(index: number, direction: 'forward' | 'backward', run: () => R): R =>
      stream ? stream.use(index, direction, run) : run();
    if (!pass.recompute) return (index, layer, x) => withWeights(index, 'forward', () => scope(() => layer.forward(x, context).output));
    const tables = parts.rotaries.map((rotary) => context.ropeTables(rotary)).flatMap(({ cos, sin }) => [cos, sin]);
    const shared = [context.positions, context.segments.table, ...tables];
    const offload = pass.offloadFolder === undefined ? undefined : new Offload(pass.offloadFolder);
    const keep = offload && ((tensor: Tensor) => offload.move(tensor));
    return (index, layer, x) =>
      recompute(x, shared, (input, kept?: Results) => layer.forward(input, context, kept), {
        execute: (direction, run) => withWeights(index, direction, run),
        keep,
      });
  }

  logits(hidden: Tensor, pass: ForwardOptions = {}): Tensor {
    return softcap(this.uncappedLogits(hidden, pass), this.logitSoftcap);
  }

  uncappedLogits(hidden: Tensor, pass: ForwardOptions = {}): Tensor {
    const { head, logitScale = 1 } = this.parts;
    return head.forward(scale(hidden, logitScale), pass, { dtype: 'f32', category: 'logits' });
  }

  dispose(): void {
    for (const rotary of this.parts.rotaries) rotary.dispose();
  }
}
