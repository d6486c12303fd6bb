import { z } from 'zod';
import { requireOps } from '../core/capabilities.js';
import type { Tensor } from '../core/tensor.js';
import { type Attended, Attention } from '../nn/attention.js';
import type { Builder } from '../nn/builder.js';
import type { LayerContext } from '../nn/context.js';
import type { DecoderLayer } from '../nn/decoder.js';
import { GatedConv } from '../nn/gated-conv.js';
import type { RMSNorm } from '../nn/layers.js';
import { GatedMlp } from '../nn/mlp.js';
import { RotaryEmbedding } from '../nn/rotary.js';
import { decoderSizes, size, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGguf, usualPaths } from './family.js';

const schema = withHeads(
  decoderSizes
    .extend({
      max_position_embeddings: size.default(128_000),
      norm_eps: z.number().positive().default(1e-5),
      tie_word_embeddings: z.boolean().default(true),
      tie_embedding: z.boolean().nullish(),
      conv_bias: z.literal(false).default(false),
      conv_L_cache: size.max(64).default(3),
      block_auto_adjust_ff_dim: z.boolean().default(true),
      block_ffn_dim_multiplier: z.number().positive().nullish().default(1),
      block_multiple_of: size.default(256),
      block_ff_dim: size.nullish(),
      layer_types: z.array(z.enum(['full_attention', 'conv'])).nullish(),
      full_attn_idxs: z.array(z.number().int()).nullish(),
    })
    .transform((c) => ({ ...c, tie_word_embeddings: c.tie_embedding ?? c.tie_word_embeddings, rms_norm_eps: c.norm_eps })),
);
type Config = z.output<typeof schema>;

/** F: what config.json names, or two thirds of it, times a factor, in whole multiples. */
function mlpWidth({ block_ff_dim, intermediate_size, block_multiple_of: multiple, ...c }: Config): number {
  const given = block_ff_dim ?? intermediate_size;
  if (!c.block_auto_adjust_ff_dim) return given;
  const wanted = Math.floor((c.block_ffn_dim_multiplier ?? 1) * Math.floor((2 * given) / 3));
  return multiple * Math.ceil(wanted / multiple);
}

/** Whether a layer attends; the others have a short convolution. */
function attends({ layer_types: types, full_attn_idxs: attending }: Config, index: number): boolean {
  return types ? types[index] !== 'conv' : (attending?.includes(index) ?? true);
}

class Lfm2Layer implements DecoderLayer {
  private readonly norms: { operator: RMSNorm; mlp: RMSNorm };
  private readonly operator: Attention | GatedConv;
  private readonly mlp: GatedMlp;

  constructor(index: number, c: Config, rotary: RotaryEmbedding, build: Builder) {
    const path = `${usualPaths.layers}.${index}`;
    const [C, F] = [c.hidden_size, mlpWidth(c)];
    const norm = (name: string) => build.rmsNorm(`${path}.${name}`, C, c.norm_eps);
    this.norms = { operator: norm('operator_norm'), mlp: norm('ffn_norm') };
    this.operator = attends(c, index)
      ? attentionOf(index, `${path}.self_attn`, c, rotary, build)
      : convolutionOf(index, `${path}.conv`, c, build);
    const linear = (name: string, inputs: number, outputs: number) => build.linear(`${path}.feed_forward.${name}`, inputs, outputs);
    this.mlp = new GatedMlp('silu', { gate: linear('w1', C, F), up: linear('w3', C, F), down: linear('w2', F, C) });
  }

  forward(
    x: Tensor,
    context: LayerContext,
    kept?: { output: Tensor } & Partial<Attended>,
  ): { output: Tensor; y: Tensor } & Partial<Attended> {
    const { operator, norms, mlp } = this;
    const normed = norms.operator.forward(x);
    const mixed =
      operator instanceof Attention ? operator.forward(normed, x, context, kept) : { y: operator.forward(normed, x, context, kept?.y) };
    return { output: mlp.forward(norms.mlp.forward(mixed.y), mixed.y, context.pass, kept?.output), ...mixed };
  }
}

function attentionOf(index: number, path: string, c: Config, rotary: RotaryEmbedding, build: Builder): Attention {
  const [C, D] = [c.hidden_size, c.head_dim];
  const [Q, K] = [c.num_attention_heads * D, c.num_key_value_heads * D];
  const into = (name: string, width: number) => build.linear(`${path}.${name}`, C, width);
  return new Attention(index, D, {
    in: { q: into('q_proj', Q), k: into('k_proj', K), v: into('v_proj', K) },
    o: build.linear(`${path}.out_proj`, Q, C),
    qNorm: build.rmsNorm(`${path}.q_layernorm`, D, c.norm_eps),
    kNorm: build.rmsNorm(`${path}.k_layernorm`, D, c.norm_eps),
    rotary,
  });
}

function convolutionOf(index: number, path: string, { hidden_size: C, conv_L_cache: K }: Config, build: Builder): GatedConv {
  return new GatedConv(index, {
    in: build.linear(`${path}.in_proj`, C, 3 * C),
    conv: build.shortConv(`${path}.conv`, C, K),
    out: build.linear(`${path}.out_proj`, C, C),
  });
}

const gguf = usualGguf('lfm2');
const [full_attn_idxs, rope_theta] = [[2, 5, 8, 10, 12, 14], 1_000_000];

/** Lfm2ForCausalLM: most layers have a short convolution in attention's place (https://huggingface.co/docs/transformers/model_doc/lfm2). */
export const lfm2 = defineFamily({
  modelType: 'lfm2',
  models: 'LFM2',
  architecture: 'Lfm2ForCausalLM',
  paths: { ...usualPaths, norm: 'model.embedding_norm' },
  defaultTargets: ['q_proj', 'v_proj'],
  schema,
  parts: (c, build, backend) => {
    requireOps(backend, ['shortConv', 'shortConvBackward'], build.name, 'choose another device, or a model without convolutions');
    const embedding = build.embedding(usualPaths.embedding, c.vocab_size, c.hidden_size);
    const rotary = new RotaryEmbedding(backend, c.rope_parameters, c.head_dim, c.max_position_embeddings);
    return {
      embedding,
      layers: Array.from({ length: c.num_hidden_layers }, (_, index) => new Lfm2Layer(index, c, rotary, build)),
      norm: build.rmsNorm('model.embedding_norm', c.hidden_size, c.norm_eps),
      head: build.head(usualPaths.head, embedding, c.tie_word_embeddings),
      rotaries: [rotary],
      maxPositions: c.max_position_embeddings,
    };
  },
  gguf: {
    ...gguf,
    config: { architectures: ['Lfm2ForCausalLM'], model_type: 'lfm2', block_auto_adjust_ff_dim: false },
    modules: {
      ...gguf.modules,
      token_embd_norm: 'model.embedding_norm',
      'blk.attn_norm': 'operator_norm',
      'blk.attn_output': 'self_attn.out_proj',
      'blk.attn_q_norm': 'self_attn.q_layernorm',
      'blk.attn_k_norm': 'self_attn.k_layernorm',
      'blk.shortconv.conv': 'conv.conv',
      'blk.shortconv.in_proj': 'conv.in_proj',
      'blk.shortconv.out_proj': 'conv.out_proj',
      'blk.ffn_norm': 'ffn_norm',
      'blk.ffn_gate': 'feed_forward.w1',
      'blk.ffn_up': 'feed_forward.w3',
      'blk.ffn_down': 'feed_forward.w2',
    },
    convolutions: ['blk.shortconv.conv'],
    attentionLayers: 'full_attn_idxs',
    numbers: { 'attention.layer_norm_rms_epsilon': 'norm_eps', 'shortconv.l_cache': 'conv_L_cache' },
  },
  shapes: shapesOf('lfm2', {
    'lfm2-350m': [1024, 6656, 16, 16, 8, 65536, { full_attn_idxs, rope_theta }],
    'lfm2-700m': [1536, 10240, 16, 24, 8, 65536, { full_attn_idxs, rope_theta }],
    'lfm2-1.2b': [2048, 12288, 16, 32, 8, 65536, { full_attn_idxs, rope_theta }],
  }),
});
