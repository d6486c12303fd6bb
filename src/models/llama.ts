import { z } from 'zod';
import type { Backend } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import { discard, scope } from '../core/scope.js';
import { checkpoint } from '../core/tape.js';
import { fromArray, type Tensor } from '../core/tensor.js';
import { Attention } from '../nn/attention.js';
import type { Builder } from '../nn/builder.js';
import type { ForwardOptions, LayerContext, PackedTokens } from '../nn/context.js';
import type { LayerStream } from '../nn/layer-stream.js';
import type { Embedding, Linear, RMSNorm } from '../nn/layers.js';
import { GatedMlp } from '../nn/mlp.js';
import type { CausalLM } from '../nn/model.js';
import { Offload } from '../nn/offload.js';
import { RotaryEmbedding, ropeParameters } from '../nn/rotary.js';
import { parseConfig, ropeOf } from './config.js';

const count = z.number().int().positive();

const LlamaConfig = z
  .object({
    vocab_size: count,
    hidden_size: count,
    intermediate_size: count,
    num_hidden_layers: count,
    num_attention_heads: count,
    num_key_value_heads: count.nullish(),
    head_dim: count.nullish(),
    max_position_embeddings: count.default(2048),
    rms_norm_eps: z.number().positive().default(1e-6),
    hidden_act: z.literal('silu').default('silu'),
    attention_bias: z.boolean().default(false),
    mlp_bias: z.boolean().default(false),
    tie_word_embeddings: z.boolean().default(false),
    rope_parameters: ropeParameters,
  })
  .refine((c) => c.head_dim || c.hidden_size % c.num_attention_heads === 0, 'hidden_size must be a multiple of num_attention_heads')
  .refine((c) => c.num_attention_heads % (c.num_key_value_heads ?? c.num_attention_heads) === 0, {
    error: 'num_attention_heads must be a multiple of num_key_value_heads',
  });
type LlamaConfig = z.output<typeof LlamaConfig>;

/** x + attention(norm(x)), then x + mlp(norm(x)). */
class LlamaLayer {
  private readonly inputNorm: RMSNorm;
  private readonly attention: Attention;
  private readonly postAttentionNorm: RMSNorm;
  private readonly mlp: GatedMlp;

  constructor(index: number, c: LlamaConfig, headDim: number, build: Builder) {
    const path = `model.layers.${index}`;
    const [C, F] = [c.hidden_size, c.intermediate_size];
    const queryWidth = c.num_attention_heads * headDim;
    const keyWidth = (c.num_key_value_heads ?? c.num_attention_heads) * headDim;
    this.inputNorm = build.rmsNorm(`${path}.input_layernorm`, C, c.rms_norm_eps);
    this.attention = new Attention(index, headDim, {
      q: build.linear(`${path}.self_attn.q_proj`, C, queryWidth, c.attention_bias),
      k: build.linear(`${path}.self_attn.k_proj`, C, keyWidth, c.attention_bias),
      v: build.linear(`${path}.self_attn.v_proj`, C, keyWidth, c.attention_bias),
      o: build.linear(`${path}.self_attn.o_proj`, queryWidth, C, c.attention_bias),
    });
    this.postAttentionNorm = build.rmsNorm(`${path}.post_attention_layernorm`, C, c.rms_norm_eps);
    this.mlp = new GatedMlp('silu', {
      gate: build.linear(`${path}.mlp.gate_proj`, C, F, c.mlp_bias),
      up: build.linear(`${path}.mlp.up_proj`, C, F, c.mlp_bias),
      down: build.linear(`${path}.mlp.down_proj`, F, C, c.mlp_bias),
    });
  }

  /** The layer's output, and what is dear to compute and small to keep: the attention's output before and after its projection. */
  forward(x: Tensor, context: LayerContext, known: readonly Tensor[] = []): readonly Tensor[] {
    const [value, attended, out, lse] = known;
    const { y, heads } = this.attention.forward(this.inputNorm.forward(x), x, context, { y: attended, heads: out && { out, lse } });
    const output = this.mlp.forward(this.postAttentionNorm.forward(y), y, context.options, value);
    return [output, y, heads.out, ...(heads.lse ? [heads.lse] : [])];
  }
}

/** LlamaForCausalLM: Llama 2 and 3.x, TinyLlama, SmolLM2 (https://huggingface.co/docs/transformers/model_doc/llama). */
export class LlamaForCausalLM implements CausalLM {
  readonly modelType = 'llama';
  readonly headPath = 'lm_head';
  readonly defaultTargets = ['q_proj', 'v_proj'];
  readonly backend: Backend;
  readonly dtype: DType;
  readonly config: Readonly<Record<string, unknown>>;
  readonly vocabulary: number;
  readonly maxPositions: number;
  readonly cacheShape: { layers: number; width: number };
  readonly tied: boolean;
  readonly modules: Builder['modules'];
  stream?: LayerStream;
  private readonly embedTokens: Embedding;
  private readonly layers: LlamaLayer[];
  private readonly norm: RMSNorm;
  private readonly head: Linear;
  private readonly rotary: RotaryEmbedding;

  constructor(config: Readonly<Record<string, unknown>>, build: Builder, backend: Backend, dtype: DType) {
    const c = parseConfig(LlamaConfig, { ...config, rope_parameters: ropeOf(config) }, build.name);
    const headDim = c.head_dim ?? c.hidden_size / c.num_attention_heads;
    this.backend = backend;
    this.dtype = dtype;
    this.config = config;
    this.vocabulary = c.vocab_size;
    this.maxPositions = c.max_position_embeddings;
    this.cacheShape = { layers: c.num_hidden_layers, width: (c.num_key_value_heads ?? c.num_attention_heads) * headDim };
    this.embedTokens = build.embedding('model.embed_tokens', c.vocab_size, c.hidden_size);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, i) => new LlamaLayer(i, c, headDim, build));
    this.norm = build.rmsNorm('model.norm', c.hidden_size, c.rms_norm_eps);
    this.tied = c.tie_word_embeddings;
    this.head = this.tied ? build.tied(this.headPath, this.embedTokens.weight) : build.linear(this.headPath, c.hidden_size, c.vocab_size);
    this.rotary = new RotaryEmbedding(backend, c.rope_parameters, headDim, c.max_position_embeddings);
    this.modules = build.modules;
    // Tied checkpoints may store the head once more; old ones store the rotary frequencies.
    build.finish(this.tied ? /rotary_emb\.inv_freq$|^lm_head\.weight$/ : /rotary_emb\.inv_freq$/);
  }

  hidden(tokens: PackedTokens, options: ForwardOptions = {}): Tensor {
    const { backend } = this;
    return scope(() => {
      const longest = tokens.positions.reduce((max, position) => Math.max(max, position), 0) + 1;
      const context: LayerContext = {
        positions: fromArray(backend, tokens.positions),
        segments: { table: fromArray(backend, tokens.segments, [tokens.segments.length / 4, 4]), rows: tokens.segments },
        rope: this.rotary.upTo(longest),
        cacheRows: options.cacheRows && fromArray(backend, options.cacheRows),
        options,
      };
      const shared = [context.positions, context.segments.table, context.rope.cos, context.rope.sin];
      let x = this.embedTokens.forward(fromArray(backend, tokens.inputIds), this.dtype);
      const offload = options.offloadFolder === undefined ? undefined : new Offload(options.offloadFolder);
      const keep = offload && ((tensor: Tensor) => offload.move(tensor));
      for (const [i, layer] of this.layers.entries()) {
        const input = x;
        const around = <R>(forward: boolean, run: () => R): R => (this.stream ? this.stream.use(i, forward, run) : run());
        x = options.checkpointing
          ? checkpoint(input, shared, (start, known) => layer.forward(start, context, known), { around, keep })
          : around(true, () => scope(() => layer.forward(input, context)[0]));
        discard(input);
      }
      return this.norm.forward(x);
    });
  }

  logits(hidden: Tensor, options: ForwardOptions = {}): Tensor {
    return this.head.forward(hidden, options, { dtype: 'f32', category: 'logits' });
  }

  dispose(): void {
    this.rotary.dispose();
  }
}
