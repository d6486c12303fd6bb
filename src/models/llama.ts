import { z } from 'zod';
import type { Tensor } from '../core/tensor.js';
import { type Attended, Attention } from '../nn/attention.js';
import type { Builder } from '../nn/builder.js';
import type { LayerContext } from '../nn/context.js';
import type { DecoderLayer } from '../nn/decoder.js';
import type { RMSNorm } from '../nn/layers.js';
import { GatedMlp } from '../nn/mlp.js';
import { RotaryEmbedding } from '../nn/rotary.js';
import { decoderSizes, withHeads } from './config.js';
import { defineFamily, shapesOf, usualGgufModules, usualPaths } from './family.js';

const LlamaConfig = withHeads(
  decoderSizes.extend({
    hidden_act: z.literal('silu').default('silu'),
    attention_bias: z.boolean().default(false),
    mlp_bias: z.boolean().default(false),
  }),
);
type LlamaConfig = z.output<typeof LlamaConfig>;

/** x + attention(norm(x)), then x + mlp(norm(x)). */
class LlamaLayer implements DecoderLayer {
  private readonly inputNorm: RMSNorm;
  private readonly attention: Attention;
  private readonly postAttentionNorm: RMSNorm;
  private readonly mlp: GatedMlp;

  constructor(index: number, c: LlamaConfig, rotary: RotaryEmbedding, build: Builder) {
    const path = `${usualPaths.layers}.${index}`;
    const [C, F, D] = [c.hidden_size, c.intermediate_size, c.head_dim];
    const [queryWidth, keyWidth] = [c.num_attention_heads * D, c.num_key_value_heads * D];
    this.inputNorm = build.rmsNorm(`${path}.input_layernorm`, C, c.rms_norm_eps);
    this.attention = new Attention(index, D, {
      q: build.linear(`${path}.self_attn.q_proj`, C, queryWidth, c.attention_bias),
      k: build.linear(`${path}.self_attn.k_proj`, C, keyWidth, c.attention_bias),
      v: build.linear(`${path}.self_attn.v_proj`, C, keyWidth, c.attention_bias),
      o: build.linear(`${path}.self_attn.o_proj`, queryWidth, C, c.attention_bias),
      rotary,
    });
    this.postAttentionNorm = build.rmsNorm(`${path}.post_attention_layernorm`, C, c.rms_norm_eps);
    this.mlp = new GatedMlp('silu', {
      gate: build.linear(`${path}.mlp.gate_proj`, C, F, c.mlp_bias),
      up: build.linear(`${path}.mlp.up_proj`, C, F, c.mlp_bias),
      down: build.linear(`${path}.mlp.down_proj`, F, C, c.mlp_bias),
    });
  }

  forward(x: Tensor, context: LayerContext, kept?: { output: Tensor } & Partial<Attended>): { output: Tensor } & Attended {
    const attended = this.attention.forward(this.inputNorm.forward(x), x, context, kept);
    const { y } = attended;
    return { output: this.mlp.forward(this.postAttentionNorm.forward(y), y, context.pass, kept?.output), ...attended };
  }
}

const tied = { tie_word_embeddings: true };

/** LlamaForCausalLM: Llama 2 and 3.x, TinyLlama, SmolLM2 (https://huggingface.co/docs/transformers/model_doc/llama). */
export const llama = defineFamily({
  modelType: 'llama',
  architecture: 'LlamaForCausalLM',
  paths: usualPaths,
  defaultTargets: ['q_proj', 'v_proj'],
  schema: LlamaConfig,
  parts(c, build, backend) {
    const rotary = new RotaryEmbedding(backend, c.rope_parameters, c.head_dim, c.max_position_embeddings);
    const embedding = build.embedding(usualPaths.embedding, c.vocab_size, c.hidden_size);
    return {
      embedding,
      layers: Array.from({ length: c.num_hidden_layers }, (_, index) => new LlamaLayer(index, c, rotary, build)),
      norm: build.rmsNorm(usualPaths.norm, c.hidden_size, c.rms_norm_eps),
      head: build.head(usualPaths.head, embedding, c.tie_word_embeddings),
      rotaries: [rotary],
      maxPositions: c.max_position_embeddings,
      keyWidth: c.num_key_value_heads * c.head_dim,
    };
  },
  gguf: {
    architecture: 'llama',
    config: { architectures: ['LlamaForCausalLM'], model_type: 'llama', hidden_act: 'silu' },
    modules: usualGgufModules,
    layers: usualPaths.layers,
    permuted: { 'blk.attn_q': 'num_attention_heads', 'blk.attn_k': 'num_key_value_heads' },
  },
  // What their config.json on the hub says; of the first Llama the sizes of Touvron et al. 2023, table 2.
  shapes: shapesOf('llama', {
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
  }),
});
