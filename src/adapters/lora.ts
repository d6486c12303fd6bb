import type { DType } from '../core/dtype.js';
import { empty, fromArray, type Tensor } from '../core/tensor.js';
import type { ForwardOptions } from '../nn/context.js';
import { Embedding, type EmbeddingAdapter, type Linear, type LinearAdapter, type LinearCall } from '../nn/layers.js';
import { type ExpertBranch, embedding, linear, reshape, scale } from '../ops/index.js';
import { LowrankError } from '../util/errors.js';
import { Random, streams } from '../util/philox.js';
import type { Adapter, AdapterMethod } from './adapter.js';
import { LoraConfig, rankOf, scaleOf } from './lora-config.js';
import { addProduct, LoraStack } from './lora-experts.js';

/** A low-rank update of one linear layer (Hu et al. 2021, §4.1): y += scale · dropout(x)·Aᵀ·Bᵀ. */
export class LoraLinear implements LinearAdapter {
  /** [r,in] f32 */
  readonly A: Tensor;
  /** [out,r] f32 */
  readonly B: Tensor;
  readonly r: number;
  readonly scale: number;
  /** A probability; `stream` tells the masks from other layers'. */
  private readonly dropout: number;
  private readonly stream: number;

  constructor(path: string, { weight }: Linear, config: LoraConfig, index: number) {
    const [outputs, inputs] = weight.shape;
    this.r = rankOf(config, path);
    this.scale = scaleOf(config, path);
    this.A = empty(weight.backend, [this.r, inputs], 'f32', 'adapters');
    this.B = empty(weight.backend, [outputs, this.r], 'f32', 'adapters');
    this.dropout = config.lora_dropout;
    this.stream = streams.dropout + index;
  }

  forward({ weight, bias }: Linear, x: Tensor, { dropout: key }: ForwardOptions, call: LinearCall): Tensor {
    const { A, B, scale, stream } = this;
    const dropout = key && this.dropout > 0 ? { p: this.dropout, stream, ...key } : undefined;
    return linear(x, weight, { bias, lora: { A, B, scale, dropout }, ...call });
  }

  branch(): ExpertBranch {
    return this;
  }

  parameters(): { 'lora_A.weight': Tensor; 'lora_B.weight': Tensor } {
    return { 'lora_A.weight': this.A, 'lora_B.weight': this.B };
  }

  /** W + scale·B·A */
  merge(weight: Tensor): void {
    addProduct(this.B, this.A, this.scale, weight);
  }
}

/**
 * A low-rank update of the embedding, without dropout: y[t] = W[ids[t]] + scale · B·A[:,ids[t]]. A tied head keeps the base's matrix, as in
 * PEFT. https://github.com/huggingface/peft/blob/v0.21.0/src/peft/tuners/lora/layer.py (`Embedding`)
 */
export class LoraEmbedding implements EmbeddingAdapter {
  /** [r,V] f32 */
  readonly A: Tensor;
  /** [C,r] f32 */
  readonly B: Tensor;
  readonly r: number;
  readonly scale: number;

  constructor(path: string, { weight }: Embedding, config: LoraConfig) {
    const [vocabulary, width] = weight.shape;
    const r = rankOf(config, path);
    if (r * vocabulary > maxIndex) {
      const mend = 'lower its rank, in rank_pattern';
      throw new LowrankError(`rank ${r} is too large for the embedding ${path} of ${vocabulary} rows`, { place: 'target_modules', mend });
    }
    this.r = r;
    this.scale = scaleOf(config, path);
    this.A = empty(weight.backend, [r, vocabulary], 'f32', 'adapters');
    this.B = empty(weight.backend, [width, r], 'f32', 'adapters');
  }

  forward({ weight }: Embedding, ids: Int32Array, dtype: DType): Tensor {
    const { A, B, r } = this;
    const { backend } = weight;
    const [, vocabulary] = A.shape;
    // A column of A number by number, for files have its rows one after another.
    const places = Int32Array.from({ length: ids.length * r }, (_, i) => (i % r) * vocabulary + ids[Math.floor(i / r)]);
    const h = reshape(embedding(fromArray(backend, places), reshape(A, [r * vocabulary, 1]), dtype), [ids.length, r]);
    return linear(scale(h, this.scale), B, { residual: embedding(fromArray(backend, ids), weight, dtype) });
  }

  parameters(): { lora_embedding_A: Tensor; lora_embedding_B: Tensor } {
    return { lora_embedding_A: this.A, lora_embedding_B: this.B };
  }

  /** W + scale·(B·A)ᵀ */
  merge(weight: Tensor): void {
    const { A, B, scale: alpha } = this;
    weight.backend.run('matmul', { a: A, b: B }, { out: weight }, { transposeA: true, transposeB: true, alpha, accumulate: true });
  }
}

/** The largest number of an index, i32. */
const maxIndex = 2 ** 31 - 1;

type LoraModule = LoraLinear | LoraEmbedding;

/** An adapter of low-rank updates, PEFT’s LORA. */
export type LoraAdapter = Adapter<LoraConfig, LoraModule>;

/** Initialisations that change the base model; a finished adapter of that kind needs only its own tensors where it was converted. */
const changesBase = /^(pissa|olora|corda|loftq|lora_ga)/;

/** The fields of PEFT 0.21's LoraConfig that are written with their defaults because nothing here sets them. */
const unusedFields = {
  alora_invocation_tokens: null,
  arrow_config: null,
  auto_mapping: null,
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  fan_in_fan_out: false,
  inference_mode: true,
  layer_replication: null,
  loftq_config: {},
  lora_bias: false,
  megatron_config: null,
  megatron_core: 'megatron.core',
  qalora_group_size: 16,
  revision: null,
  task_type: 'CAUSAL_LM',
  trainable_token_indices: null,
  use_dora: false,
  use_qalora: false,
};

const nullFields = {
  target_parameters: null,
  exclude_modules: null,
  layers_to_transform: null,
  layers_pattern: null,
  modules_to_save: null,
};

/** PEFT does not load an adapter of experts with dropout, since it adds the update to their weights. */
function refuseDropout({ lora_dropout: dropout }: LoraConfig, path: string): void {
  if (dropout === 0) return;
  throw new LowrankError(`lora_dropout is ${dropout}, and "${path}" belongs to experts, whose adapters PEFT takes without dropout alone`, {
    place: 'lora_dropout',
    mend: 'set it to 0, or leave the experts out of the targets',
  });
}

export const lora: AdapterMethod<LoraConfig, LoraModule> = {
  title: 'LoRA',
  schema: LoraConfig,
  keys: new Set(Object.keys(LoraConfig.shape)),

  refuse({ init_lora_weights: start }, place) {
    if (typeof start !== 'string' || !changesBase.test(start)) return;
    throw new LowrankError(`init_lora_weights ${JSON.stringify(start)} changes the base model`, {
      place: `${place}: init_lora_weights`,
      mend: 'save the adapter with PEFT’s path_initial_model_for_weight_conversion, which makes it an ordinary LoRA',
    });
  },

  layer: ({ path, module }, config, index) => {
    if (module instanceof Embedding) return new LoraEmbedding(path, module, config);
    if (module.ofExpert) refuseDropout(config, path);
    return new LoraLinear(path, module, config, index);
  },

  stack(target, config) {
    refuseDropout(config, target.path);
    return new LoraStack(target, config);
  },

  /**
   * As PEFT's LoraLayer.reset_lora_parameters. Of a linear layer A is uniform in ±1/√in and B zero (init_lora_weights true), A normal with
   * deviation 1/r ("gaussian"), or both uniform (false). Of an embedding A is zero and B normal, or both normal (false). Each matrix draws
   * from a stream of its own.
   */
  initialize(layer, { init_lora_weights: start }, seed, index) {
    const { A, B, r } = layer;
    const draw = (tensor: Tensor, lane: number, value: (random: Random) => number) => {
      const random = new Random(seed, streams.init + 2 * index + lane);
      tensor.write(new Uint8Array(Float32Array.from({ length: tensor.size }, () => value(random)).buffer));
    };
    const uniform = (limit: number) => (random: Random) => (2 * random.next() - 1) * limit;
    const normal = (random: Random) => random.normal();
    const zero = (tensor: Tensor) => tensor.write(new Uint8Array(tensor.bytes));
    if (layer instanceof LoraEmbedding) {
      if (start === false) draw(A, 0, normal);
      else zero(A);
      draw(B, 1, normal);
      return;
    }
    draw(A, 0, start === 'gaussian' ? (random) => random.normal() / r : uniform(1 / Math.sqrt(A.shape[1])));
    if (start === false) draw(B, 1, uniform(1 / Math.sqrt(r)));
    else zero(B);
  },

  fileFields(config, target_modules) {
    const patterns = { rank_pattern: config.rank_pattern ?? {}, alpha_pattern: config.alpha_pattern ?? {} };
    // What a recipe leaves out is null in PEFT's files; so it is in those of an adapter that was read back.
    const set = Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined));
    return { ...unusedFields, ...nullFields, ...set, ...patterns, target_modules };
  },

  describe: ({ r, lora_alpha, lora_dropout }) => `Rank ${r}, alpha ${lora_alpha}, dropout ${lora_dropout}`,
};
