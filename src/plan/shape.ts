import { z } from 'zod';
import { LowrankError, nearest } from '../util/errors.js';

const count = z.number().int().positive();

/** The keys of config.json that say how large a model is. Others are ignored: a plan computes nothing. */
const ModelConfig = z
  .object({
    model_type: z.string(),
    vocab_size: count,
    hidden_size: count,
    intermediate_size: count,
    num_hidden_layers: count,
    num_attention_heads: count,
    num_key_value_heads: count.nullish(),
    head_dim: count.nullish(),
    attention_bias: z.boolean().default(false),
    mlp_bias: z.boolean().default(false),
    tie_word_embeddings: z.boolean().optional(),
  })
  .refine((c) => c.head_dim || c.hidden_size % c.num_attention_heads === 0, 'hidden_size must be a multiple of num_attention_heads');

/** In what a family's layers differ from Llama's, as transformers' modelling files have them. */
interface Family {
  /** A bias on q, k and v whatever config.json says. */
  qkvBias?: true;
  /** A norm of each head of q and k. */
  headNorms?: true;
  /** Norms after attention and MLP, besides those before them. */
  postNorms?: true;
  /** transformers' default where config.json does not say. */
  tied?: true;
}

const families: Readonly<Record<string, Family>> = {
  llama: {},
  mistral: {},
  qwen2: { qkvBias: true },
  qwen3: { headNorms: true },
  gemma: { tied: true },
  gemma2: { postNorms: true, tied: true },
  gemma3_text: { headNorms: true, postNorms: true, tied: true },
};

/** A parameter matrix of a model; `path` is its module's name. */
export interface Matrix {
  readonly path: string;
  readonly outputs: number;
  readonly inputs: number;
  readonly bias: boolean;
}

/** The linear layers of one transformer layer by the ends of their names. */
export const layerMatrices = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'] as const;
export type LayerMatrix = (typeof layerMatrices)[number];

/** The sizes of a decoder-only language model. Letters as in ARCHITECTURE.md and the op table. */
export interface ModelShape {
  readonly name: string;
  readonly modelType: string;
  readonly C: number;
  readonly F: number;
  readonly L: number;
  readonly H: number;
  readonly G: number;
  readonly D: number;
  readonly V: number;
  readonly tied: boolean;
  readonly headNorms: boolean;
  readonly postNorms: boolean;
  /** Of each layer, its matrices in the order of the checkpoint. */
  readonly layers: readonly Readonly<Record<LayerMatrix, Matrix>>[];
  readonly embedding: Matrix;
  readonly head: Matrix;
}

/** Reads a config.json; `name` is for messages. */
export function shapeOf(config: Readonly<Record<string, unknown>>, name: string): ModelShape {
  const place = `${name}: config.json`;
  const parsed = ModelConfig.safeParse(config);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'config'}: ${issue.message}`);
    throw new LowrankError(problems.join('; '), { place, mend: 'use the config.json of a decoder-only language model' });
  }
  const c = parsed.data;
  const family = Object.hasOwn(families, c.model_type) ? families[c.model_type] : undefined;
  if (!family) {
    const near = nearest(c.model_type, Object.keys(families));
    throw new LowrankError(`the parameters of model_type "${c.model_type}" cannot be counted`, {
      place,
      expected: Object.keys(families).join(', '),
      mend: near ? `if it is one, write "${near}"` : 'plan with a model of one of these architectures that is about as large',
    });
  }
  const [C, F, H, V] = [c.hidden_size, c.intermediate_size, c.num_attention_heads, c.vocab_size];
  const [G, D] = [c.num_key_value_heads ?? H, c.head_dim ?? C / H];
  const qkvBias = family.qkvBias ?? c.attention_bias;
  const outputBias = !family.qkvBias && c.attention_bias;
  const layers = Array.from({ length: c.num_hidden_layers }, (_, i) => {
    const part = (path: string, inputs: number, outputs: number, bias: boolean): Matrix => ({
      path: `model.layers.${i}.${path}`,
      outputs,
      inputs,
      bias,
    });
    return {
      q_proj: part('self_attn.q_proj', C, H * D, qkvBias),
      k_proj: part('self_attn.k_proj', C, G * D, qkvBias),
      v_proj: part('self_attn.v_proj', C, G * D, qkvBias),
      o_proj: part('self_attn.o_proj', H * D, C, outputBias),
      gate_proj: part('mlp.gate_proj', C, F, c.mlp_bias),
      up_proj: part('mlp.up_proj', C, F, c.mlp_bias),
      down_proj: part('mlp.down_proj', F, C, c.mlp_bias),
    };
  });
  return {
    name,
    modelType: c.model_type,
    C,
    F,
    L: c.num_hidden_layers,
    H,
    G,
    D,
    V,
    tied: c.tie_word_embeddings ?? family.tied ?? false,
    headNorms: family.headNorms ?? false,
    postNorms: family.postNorms ?? false,
    layers,
    embedding: { path: 'model.embed_tokens', outputs: V, inputs: C, bias: false },
    head: { path: 'lm_head', outputs: V, inputs: C, bias: false },
  };
}

export const sizeOf = ({ outputs, inputs }: Matrix) => outputs * inputs;
export const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0);

/** All linear layers but the head. */
export function linearLayers({ layers }: ModelShape): Matrix[] {
  return layers.flatMap((layer) => layerMatrices.map((name) => layer[name]));
}

/** Elements of one transformer layer's norms. */
export function layerNorms({ C, D, headNorms, postNorms }: ModelShape): number {
  return (postNorms ? 4 : 2) * C + (headNorms ? 2 * D : 0);
}

/** Elements of a model's parameters: quantisable matrices, embedding and head (once where they are tied), vectors. */
export function countParameters(shape: ModelShape): { linear: number; embedding: number; head: number; vectors: number; all: number } {
  const linear = sum(linearLayers(shape).map(sizeOf));
  const embedding = sizeOf(shape.embedding);
  const head = shape.tied ? 0 : sizeOf(shape.head);
  const biases = sum(linearLayers(shape).map(({ outputs, bias }) => (bias ? outputs : 0)));
  const vectors = biases + shape.L * layerNorms(shape) + shape.C;
  return { linear, embedding, head, vectors, all: linear + embedding + head + vectors };
}
