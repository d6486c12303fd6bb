import { z } from 'zod';
import type { Tensor } from '../../src/core/tensor.js';
import { decoderSizes, withHeads } from '../../src/models/config.js';
import { defineFamily, shapesOf } from '../../src/models/family.js';
import { Attention } from '../../src/nn/attention.js';
import type { Builder } from '../../src/nn/builder.js';
import type { LayerContext } from '../../src/nn/context.js';
import type { DecoderLayer } from '../../src/nn/decoder.js';
import { GatedMlp } from '../../src/nn/mlp.js';
import { RotaryEmbedding } from '../../src/nn/rotary.js';

const NightjarConfig = withHeads(decoderSizes.extend({ hidden_act: z.literal('silu').default('silu') }));
type NightjarConfig = z.output<typeof NightjarConfig>;

/** A family that nobody publishes: Llama's layers under names of its own, none of which another file of the house may know. */
export const nightjar = defineFamily({
  modelType: 'nightjar',
  models: 'none',
  architecture: 'NightjarForCausalLM',
  paths: { embedding: 'nest.words', layers: 'nest.floors', norm: 'nest.roof', head: 'song' },
  defaultTargets: ['ask', 'answer'],
  schema: NightjarConfig,
  parts(c, build, backend) {
    const rotary = new RotaryEmbedding(backend, c.rope_parameters, c.head_dim, c.max_position_embeddings);
    const embedding = build.embedding('nest.words', c.vocab_size, c.hidden_size);
    return {
      embedding,
      layers: Array.from({ length: c.num_hidden_layers }, (_, index) => floor(index, c, rotary, build)),
      norm: build.rmsNorm('nest.roof', c.hidden_size, c.rms_norm_eps),
      head: build.head('song', embedding, c.tie_word_embeddings),
      rotaries: [rotary],
      maxPositions: c.max_position_embeddings,
    };
  },
  shapes: shapesOf('nightjar', { 'nightjar-1b': [2048, 5632, 22, 32, 4, 32000] }),
});

/** Llama's names of a layer's modules, and ours; `rename` brings a Llama's tensors under ours. */
const names: Readonly<Record<string, string>> = {
  'model.embed_tokens': 'nest.words',
  'model.norm': 'nest.roof',
  lm_head: 'song',
  'model.layers': 'nest.floors',
  input_layernorm: 'first',
  post_attention_layernorm: 'second',
  'self_attn.q_proj': 'ask',
  'self_attn.k_proj': 'key',
  'self_attn.v_proj': 'answer',
  'self_attn.o_proj': 'out',
  'mlp.gate_proj': 'gate',
  'mlp.up_proj': 'rise',
  'mlp.down_proj': 'fall',
};

export function rename(name: string): string {
  return Object.entries(names).reduce((renamed, [theirs, ours]) => renamed.replace(theirs, ours), name);
}

function floor(index: number, c: NightjarConfig, rotary: RotaryEmbedding, build: Builder): DecoderLayer {
  const path = `nest.floors.${index}`;
  const [C, F, D] = [c.hidden_size, c.intermediate_size, c.head_dim];
  const [Q, K] = [c.num_attention_heads * D, c.num_key_value_heads * D];
  const [first, second] = ['first', 'second'].map((name) => build.rmsNorm(`${path}.${name}`, C, c.rms_norm_eps));
  const attention = new Attention(index, D, {
    in: { q: build.linear(`${path}.ask`, C, Q), k: build.linear(`${path}.key`, C, K), v: build.linear(`${path}.answer`, C, K) },
    o: build.linear(`${path}.out`, Q, C),
    rotary,
  });
  const mlp = new GatedMlp('silu', {
    gate: build.linear(`${path}.gate`, C, F),
    up: build.linear(`${path}.rise`, C, F),
    down: build.linear(`${path}.fall`, F, C),
  });
  return {
    // Keeps only its output, so that the rest of the layer is computed again.
    forward(x: Tensor, context: LayerContext, kept?: { output: Tensor }) {
      const { y } = attention.forward(first.forward(x), x, context);
      return { output: mlp.forward(second.forward(y), y, context.pass, kept?.output) };
    },
  };
}
