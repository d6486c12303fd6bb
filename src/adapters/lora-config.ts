import { z } from 'zod';
import { valueFor } from './targets.js';

const names = z.array(z.string().min(1).max(500));
const integer = z.number().int();
/** Patterns are objects from JSON; their keys are regular expressions on module paths. */
const pattern = <T extends z.ZodType>(value: T) => z.record(z.string().max(500), value);

/** PEFT's LoraConfig (0.21), as far as it is supported; the defaults are PEFT's. */
export const LoraConfig = z.object({
  peft_type: z.literal('LORA').default('LORA'),
  /** Rank: A is [r,in], B is [out,r]. */
  r: integer.min(1).max(65536).default(8),
  /** The update is scaled by lora_alpha / r, or by lora_alpha / √r with use_rslora (Kalajdzievski 2023). */
  lora_alpha: z.number().positive().default(8),
  lora_dropout: z.number().min(0).lt(1).default(0),
  use_rslora: z.boolean().default(false),
  /** Names or path endings; one string is a regular expression for whole paths, or `all-linear`; null takes the architecture's default. */
  target_modules: z.union([names, z.string().min(1).max(2000)]).nullish(),
  /** Endings of parameters' paths, as transformers has them in memory: the way to experts, whose weights are one parameter there. */
  target_parameters: names.nullish(),
  exclude_modules: z.union([names, z.string().min(1).max(2000)]).nullish(),
  rank_pattern: pattern(integer.min(1)).nullish(),
  alpha_pattern: pattern(z.number().positive()).nullish(),
  layers_to_transform: z.union([z.array(integer), integer]).nullish(),
  layers_pattern: z.union([names, z.string()]).nullish(),
  bias: z.enum(['none', 'all', 'lora_only']).default('none'),
  modules_to_save: names.nullish(),
  /** Orthogonal, EVA's and MiCA's beginnings leave the base as it is, so that the trained adapter is an ordinary one. */
  init_lora_weights: z
    .union([z.boolean(), z.literal('gaussian'), z.enum(['orthogonal', 'eva', 'mica']).transform(() => true)])
    .default(true),
});
export type LoraConfig = z.output<typeof LoraConfig>;

/** The rank and the factor of what stands at a path. */
export function rankOf(config: LoraConfig, path: string): number {
  return valueFor(config.rank_pattern, path) ?? config.r;
}

export function scaleOf(config: LoraConfig, path: string): number {
  const alpha = valueFor(config.alpha_pattern, path) ?? config.lora_alpha;
  const r = rankOf(config, path);
  return config.use_rslora ? alpha / Math.sqrt(r) : alpha / r;
}
