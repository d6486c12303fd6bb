import { z } from 'zod';
import { ropeParameters } from '../nn/rotary.js';
import { LowrankError } from '../util/errors.js';

/** A size in a config.json; files come from anywhere, and no model is larger. */
export const size = z
  .number()
  .int()
  .positive()
  .max(2 ** 24);

/** What the config.json of every decoder has; the names and defaults are transformers'. */
export const decoderSizes = z.object({
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size.max(4096),
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  max_position_embeddings: size.default(2048),
  rms_norm_eps: z.number().positive().default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  rope_parameters: ropeParameters,
});

/** With silu in the MLP, and biases where config.json says so. */
export const biasedSizes = decoderSizes.extend({
  hidden_act: z.literal('silu').default('silu'),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
});

type HeadSizes = Pick<z.output<typeof decoderSizes>, 'hidden_size' | 'num_attention_heads' | 'num_key_value_heads' | 'head_dim'>;

/** The same schema with the heads' sizes checked, and filled in where config.json leaves them to be derived. */
export function withHeads<S extends z.ZodType<HeadSizes>>(schema: S) {
  return schema
    .refine((c) => c.head_dim || c.hidden_size % c.num_attention_heads === 0, 'hidden_size must be a multiple of num_attention_heads')
    .refine((c) => c.num_attention_heads % (c.num_key_value_heads ?? c.num_attention_heads) === 0, {
      error: 'num_attention_heads must be a multiple of num_key_value_heads',
    })
    .transform((c) => ({
      ...c,
      num_key_value_heads: c.num_key_value_heads ?? c.num_attention_heads,
      head_dim: c.head_dim ?? c.hidden_size / c.num_attention_heads,
    }));
}

/** When transformers adds the balancing loss of mixtures of experts to a loss with labels, and with what factor. */
export const balancing = {
  output_router_logits: z.boolean().default(false),
  router_aux_loss_coef: z.number().min(0).default(0.001),
};

export type Balancing = z.output<z.ZodObject<typeof balancing>>;

/** The check that a token has no more experts than there are. */
export function expertsPerToken<K extends string>(experts: K) {
  return z.refine<{ num_experts_per_tok: number } & { [key in K]: number }>((c) => c.num_experts_per_tok <= c[experts], {
    error: `must be at most ${experts}`,
    path: ['num_experts_per_tok'],
  });
}

/** What every family's schema gives. */
export type DecoderConfig = Omit<z.output<typeof decoderSizes>, 'num_key_value_heads' | 'head_dim'> & {
  num_key_value_heads: number;
  head_dim: number;
};

/** How layers see their keys: `sliding_window`, and `layer_types` where they differ (transformers 4.53). */
export const slidingWindow = {
  sliding_window: size.nullish(),
  layer_types: z.array(z.string()).nullish(),
};

/** The window of a layer whose `layer_types` say that it slides; 0 where they say that it does not; undefined where they say nothing. */
export function windowOfType(c: { sliding_window?: number | null; layer_types?: string[] | null }, index: number): number | undefined {
  const type = c.layer_types?.[index];
  return type === undefined ? undefined : type === 'sliding_attention' ? (c.sliding_window ?? 0) : 0;
}

/** Rotary parameters by which this share of a head turns, where config.json says nothing. */
export function ropeOfPart(partial_rotary_factor: number) {
  return z.preprocess((rope) => {
    const { partial_rotary_factor: said, ...rest } = rope as Record<string, unknown>;
    return { ...rest, partial_rotary_factor: said ?? partial_rotary_factor };
  }, ropeParameters);
}

/** Checks a config.json against an architecture's schema; the error names the model and every key that is wrong. */
export function parseConfig<T>(schema: z.ZodType<T>, config: Readonly<Record<string, unknown>>, model: string): T {
  const result = schema.safeParse(config);
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => `${issue.path.join('.') || 'config'}: ${issue.message}`);
  throw new LowrankError(problems.join('; '), { place: `${model}: config.json`, mend: 'use the config.json that belongs to the model' });
}

/** The rotary parameters of config.json in the form of transformers 5 (`rope_parameters`), from either form. */
export function ropeOf(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const stored = config.rope_parameters ?? config.rope_scaling ?? {};
  const parameters = { ...(stored as Record<string, unknown>) };
  parameters.rope_type ??= parameters.type ?? 'default';
  parameters.rope_theta ??= config.rope_theta ?? config.rotary_emb_base;
  parameters.partial_rotary_factor ??= config.partial_rotary_factor ?? config.rotary_pct;
  // Phi-3 called it `su`, and the length that its factors refer to stands beside them.
  // Positions in an image; those of text have one coordinate.
  if (parameters.rope_type === 'mrope') parameters.rope_type = 'default';
  if (parameters.rope_type === 'su') parameters.rope_type = 'longrope';
  if (parameters.rope_type === 'longrope') parameters.original_max_position_embeddings ??= config.original_max_position_embeddings;
  if (parameters.rope_type === 'yarn') parameters.original_max_position_embeddings ??= config.max_position_embeddings;
  return parameters;
}
