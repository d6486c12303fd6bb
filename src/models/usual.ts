import type { Backend } from '../core/backend.js';
import { requireOps } from '../core/capabilities.js';
import type { OpName } from '../core/ops.table.js';
import { Attention } from '../nn/attention.js';
import { Block, type NormPlaces } from '../nn/block.js';
import type { Builder } from '../nn/builder.js';
import type { DecoderParts } from '../nn/decoder.js';
import { MixtureOfExperts } from '../nn/experts.js';
import type { Norm } from '../nn/layers.js';
import { GatedMlp, Mlp } from '../nn/mlp.js';
import type { ModelPaths } from '../nn/model.js';
import { type RopeParameters, RotaryEmbedding } from '../nn/rotary.js';
import type { ActivationKind } from '../ops/index.js';
import type { Balancing, DecoderConfig } from './config.js';

/** The norms of a layer by where they stand; each is there or not. */
export type LayerNorms = NormPlaces<string>;

/** A mixture of experts in the place of the MLP. */
export interface MixtureFacts {
  /** How many there are, and of these each token's. */
  experts: number;
  perToken: number;
  /** Width inside each. */
  width: number;
  /** Whether the weights of a token's experts add up to 1. */
  normalize: boolean;
  balancing: Balancing;
  /** The checkpoint's name of the block, and of the linear layers of an expert. */
  block: string;
  gate: string;
  up: string;
  down: string;
}

/** In what a layer is not Llama's; everything may be left out. */
export interface LayerFacts {
  norms?: LayerNorms;
  /** What is added to the weights of norms. */
  normOffset?: number;
  /** Biases of all four projections, or of all but the output's. */
  attentionBias?: boolean | 'qkv';
  mlpBias?: boolean;
  /** The name of the attention's output projection; default o_proj. */
  attentionOutput?: string;
  /** The names of an MLP's projections up and down, where it has no gate. */
  ungated?: readonly [up: string, down: string];
  activation?: ActivationKind;
  mixture?: MixtureFacts;
  /** One projection for q, k and v (qkv_proj), and one for gate and up (gate_up_proj), or the latter alone. */
  fused?: boolean | 'mlp';
  /** Neighbours turn together, instead of one of each half of a head. */
  interleaved?: boolean;
  /** Norms that move the mean to 0, too, with biases or without. */
  layerNorm?: 'with bias' | 'without bias';
  /** The MLP reads what the attention reads. */
  parallel?: boolean;
  /** Norms of queries and keys: over each head, or over all heads at once. */
  queryNorms?: 'each head' | 'all heads';
  /** The rotary parameters, if not those of config.json; null: the layer is told no positions. */
  rope?: RopeParameters | null;
  /** Keys that a query sees, itself included; 0 for all. */
  window?: number;
  /** Factor of the attention's scores, default 1/√D, and their soft cap; 0 for none. */
  attentionScale?: number;
  attentionSoftcap?: number;
  /** Factor of what attention and MLP add to the residual. */
  residualScale?: number;
}

const preNorms: LayerNorms = { beforeAttention: 'input_layernorm', beforeMlp: 'post_attention_layernorm' };

/** A layer's number, and the path of its modules. */
interface LayerPlace {
  readonly index: number;
  readonly path: string;
}

/** Such a layer under the names that most checkpoints have. */
function layerOf(place: LayerPlace, c: DecoderConfig, facts: LayerFacts, rotary: RotaryEmbedding | undefined, build: Builder): Block {
  const { path } = place;
  const { norms = preNorms, residualScale, parallel } = facts;
  const norm = (name: string | undefined) => (name === undefined ? undefined : normOf(`${path}.${name}`, c, facts, build));
  const beforeAttention = norm(norms.beforeAttention);
  const attention = attentionOf(place, c, facts, rotary, build);
  const [afterAttention, beforeMlp] = [norm(norms.afterAttention), norm(norms.beforeMlp)];
  const mlp = facts.mixture ? mixtureOf(path, c, facts.mixture, facts.activation ?? 'silu', build) : mlpOf(`${path}.mlp`, c, facts, build);
  return new Block({
    norms: { beforeAttention, afterAttention, beforeMlp, afterMlp: norm(norms.afterMlp) },
    attention,
    mlp,
    residualScale,
    parallel,
  });
}

function normOf(path: string, c: DecoderConfig, { layerNorm, normOffset }: LayerFacts, build: Builder): Norm {
  if (layerNorm) return build.layerNorm(path, c.hidden_size, c.rms_norm_eps, layerNorm === 'with bias');
  return build.rmsNorm(path, c.hidden_size, c.rms_norm_eps, normOffset);
}

function mlpOf(path: string, c: DecoderConfig, facts: LayerFacts, build: Builder): GatedMlp | Mlp {
  const { activation = 'silu', mlpBias, fused, ungated } = facts;
  const [C, F] = [c.hidden_size, c.intermediate_size];
  const linear = (name: string, inputs: number, outputs: number) => build.linear(`${path}.${name}`, inputs, outputs, mlpBias);
  if (ungated) return new Mlp(activation, { up: linear(ungated[0], C, F), down: linear(ungated[1], F, C) });
  if (fused) return new GatedMlp(activation, { gateUp: linear('gate_up_proj', C, 2 * F), down: linear('down_proj', F, C) });
  return new GatedMlp(activation, { gate: linear('gate_proj', C, F), up: linear('up_proj', C, F), down: linear('down_proj', F, C) });
}

function mixtureOf(path: string, c: DecoderConfig, facts: MixtureFacts, activation: ActivationKind, build: Builder): MixtureOfExperts {
  const { experts, perToken: k, width: F, normalize, block } = facts;
  const C = c.hidden_size;
  const router = build.linear(`${path}.${block}.gate`, C, experts);
  const expertOf = (_: unknown, e: number) => {
    const inner = `${path}.${block}.experts.${e}`;
    return {
      gate: build.expert(`${inner}.${facts.gate}`, C, F),
      up: build.expert(`${inner}.${facts.up}`, C, F),
      down: build.expert(`${inner}.${facts.down}`, F, C),
    };
  };
  const paths = (...names: string[]) =>
    Array.from({ length: experts }, (_, e) => names.map((name) => `${path}.${block}.experts.${e}.${name}`));
  build.stacks.set(`${path}.mlp.experts.gate_up_proj`, paths(facts.gate, facts.up));
  build.stacks.set(`${path}.mlp.experts.down_proj`, paths(facts.down));
  if (block !== 'mlp') build.aliases.set(`${path}.${block}.gate`, `${path}.mlp.gate`);
  return new MixtureOfExperts({ router, experts: Array.from({ length: experts }, expertOf), k, normalize, activation });
}

function attentionOf(
  place: LayerPlace,
  c: DecoderConfig,
  facts: LayerFacts,
  rotary: RotaryEmbedding | undefined,
  build: Builder,
): Attention {
  const path = `${place.path}.self_attn`;
  const { attentionBias = false, attentionOutput = 'o_proj', fused, interleaved, queryNorms, normOffset } = facts;
  const { window, attentionScale, attentionSoftcap } = facts;
  const [C, D] = [c.hidden_size, c.head_dim];
  const [Q, K] = [c.num_attention_heads * D, c.num_key_value_heads * D];
  const norm = (name: string, width: number) =>
    queryNorms && build.rmsNorm(`${path}.${name}`, queryNorms === 'all heads' ? width : D, c.rms_norm_eps, normOffset);
  const into = (name: string, width: number) => build.linear(`${path}.${name}`, C, width, attentionBias !== false);
  return new Attention(place.index, D, {
    in: fused === true ? { qkv: into('qkv_proj', Q + 2 * K) } : { q: into('q_proj', Q), k: into('k_proj', K), v: into('v_proj', K) },
    o: build.linear(`${path}.${attentionOutput}`, Q, C, attentionBias === true),
    qNorm: norm('q_norm', Q),
    kNorm: norm('k_norm', K),
    rotary,
    interleaved,
    window,
    scale: attentionScale,
    softcap: attentionSoftcap,
  });
}

/** What a mixture of experts asks of a device. */
const expertOps: readonly OpName[] = ['route', 'routeBackward', 'groupRows', 'groupMatmul', 'combineRows', 'combineRowsBackward'];

function mixturesOf(all: readonly MixtureFacts[]): Pick<DecoderParts, 'mixtures' | 'balanced'> {
  if (all.length === 0) return {};
  const [{ experts, perToken, balancing }] = all;
  const { output_router_logits: balanced, router_aux_loss_coef: balanceFactor } = balancing;
  return { mixtures: { layers: all.length, experts, perToken, balanceFactor }, balanced };
}

/** Factors around the layers, a cap of the logits, and whether the head has a bias. */
export type DecoderScales = Pick<DecoderParts, 'embeddingScale' | 'logitScale' | 'logitSoftcap'> & { headBias?: boolean };

/** A decoder of such layers; `facts` says in what each of them is not Llama's. */
export function usualDecoder<C extends DecoderConfig>(
  facts: (c: C, index: number) => LayerFacts,
  scales: (c: NoInfer<C>) => DecoderScales = () => ({}),
) {
  return (c: C, build: Builder, backend: Backend, paths: ModelPaths): DecoderParts => {
    const rotaries = new Map<RopeParameters, RotaryEmbedding>();
    const rotaryOf = (rope: RopeParameters) => {
      const rotary = rotaries.get(rope) ?? new RotaryEmbedding(backend, rope, c.head_dim, c.max_position_embeddings);
      rotaries.set(rope, rotary);
      return rotary;
    };
    const embedding = build.embedding(paths.embedding, c.vocab_size, c.hidden_size);
    const mixtures: MixtureFacts[] = [];
    const layers = Array.from({ length: c.num_hidden_layers }, (_, index) => {
      const of = facts(c, index);
      if (of.mixture) {
        requireOps(backend, expertOps, build.name, 'choose another device, or a model without experts');
        mixtures.push(of.mixture);
      }
      const { rope = c.rope_parameters } = of;
      return layerOf({ index, path: `${paths.layers}.${index}` }, c, of, rope === null ? undefined : rotaryOf(rope), build);
    });
    const { headBias, ...factors } = scales(c);
    return {
      ...factors,
      embedding,
      layers,
      norm: normOf(paths.norm, c, facts(c, 0), build),
      head: build.head(paths.head, embedding, c.tie_word_embeddings, headBias),
      ...mixturesOf(mixtures),
      rotaries: [...rotaries.values()],
      maxPositions: c.max_position_embeddings,
    };
  };
}
