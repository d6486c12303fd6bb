import { empty, type Tensor } from '../core/tensor.js';
import type { ForwardOptions } from '../nn/context.js';
import type { Linear, LinearAdapter, LinearCall } from '../nn/layers.js';
import { linear } from '../ops/index.js';
import { LowrankError } from '../util/errors.js';
import { Random, streams } from '../util/philox.js';
import type { Adapter, AdapterMethod } from './adapter.js';
import { LoraConfig } from './lora-config.js';
import { valueFor } from './targets.js';

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
    const alpha = valueFor(config.alpha_pattern, path) ?? config.lora_alpha;
    this.r = valueFor(config.rank_pattern, path) ?? config.r;
    this.scale = config.use_rslora ? alpha / Math.sqrt(this.r) : alpha / this.r;
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

  parameters(): { 'lora_A.weight': Tensor; 'lora_B.weight': Tensor } {
    return { 'lora_A.weight': this.A, 'lora_B.weight': this.B };
  }

  /** W + scale·B·A */
  merge(weight: Tensor): void {
    const { A, B, scale: alpha } = this;
    weight.backend.run('matmul', { a: B, b: A }, { out: weight }, { transposeA: false, transposeB: false, alpha, accumulate: true });
  }
}

/** An adapter of low-rank updates, PEFT’s LORA. */
export type LoraAdapter = Adapter<LoraConfig, LoraLinear>;

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
  target_parameters: null,
  task_type: 'CAUSAL_LM',
  trainable_token_indices: null,
  use_dora: false,
  use_qalora: false,
};

const nullFields = { exclude_modules: null, layers_to_transform: null, layers_pattern: null, modules_to_save: null };

export const lora: AdapterMethod<LoraConfig, LoraLinear> = {
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

  layer: ({ path, module }, config, index) => new LoraLinear(path, module, config, index),

  /**
   * A is uniform in ±1/√in and B zero (init_lora_weights true), A normal with deviation 1/r ("gaussian"), or both uniform (false), as
   * PEFT's LoraLayer.reset_lora_parameters; each matrix draws from a stream of its own.
   */
  initialize({ A, B, r }, { init_lora_weights }, seed, index) {
    const draw = (tensor: Tensor, lane: number, value: (random: Random) => number) => {
      const random = new Random(seed, streams.init + 2 * index + lane);
      tensor.write(new Uint8Array(Float32Array.from({ length: tensor.size }, () => value(random)).buffer));
    };
    const uniform = (limit: number) => (random: Random) => (2 * random.next() - 1) * limit;
    draw(A, 0, init_lora_weights === 'gaussian' ? (random) => random.normal() / r : uniform(1 / Math.sqrt(A.shape[1])));
    if (init_lora_weights === false) draw(B, 1, uniform(1 / Math.sqrt(r)));
    else B.write(new Uint8Array(B.bytes));
  },

  fileFields(config, target_modules) {
    const patterns = { rank_pattern: config.rank_pattern ?? {}, alpha_pattern: config.alpha_pattern ?? {} };
    return { ...unusedFields, ...nullFields, ...config, ...patterns, target_modules };
  },

  describe: ({ r, lora_alpha, lora_dropout }) => `Rank ${r}, alpha ${lora_alpha}, dropout ${lora_dropout}`,
};
