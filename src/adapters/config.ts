import { z } from 'zod';
import { LowrankError } from '../util/errors.js';

const names = z.array(z.string().min(1).max(500));
const integer = z.number().int();
/** Patterns are objects from JSON; their keys are regular expressions on module paths. */
const pattern = <T extends z.ZodType>(value: T) => z.record(z.string().max(500), value);

/** PEFT's LoraConfig (0.21), as far as it is supported; the defaults are PEFT's. */
export const LoraConfig = z.object({
  /** Rank: A is [r,in], B is [out,r]. */
  r: integer.min(1).max(65536).default(8),
  /** The update is scaled by lora_alpha / r, or by lora_alpha / √r with use_rslora (Kalajdzievski 2023). */
  lora_alpha: z.number().positive().default(8),
  lora_dropout: z.number().min(0).lt(1).default(0),
  use_rslora: z.boolean().default(false),
  /** Names or path endings; one string is a regular expression for whole paths, or `all-linear`; null takes the architecture's default. */
  target_modules: z.union([names, z.string().min(1).max(2000)]).nullish(),
  exclude_modules: z.union([names, z.string().min(1).max(2000)]).nullish(),
  rank_pattern: pattern(integer.min(1)).nullish(),
  alpha_pattern: pattern(z.number().positive()).nullish(),
  layers_to_transform: z.union([z.array(integer), integer]).nullish(),
  layers_pattern: z.union([names, z.string()]).nullish(),
  bias: z.enum(['none', 'all', 'lora_only']).default('none'),
  modules_to_save: names.nullish(),
  init_lora_weights: z.union([z.boolean(), z.literal('gaussian')]).default(true),
});
export type LoraConfig = z.output<typeof LoraConfig>;

/** Keys of adapter_config.json that change nothing in what an adapter computes, or that only say where it came from. */
const descriptive = new Set([
  'auto_mapping',
  'base_model_name_or_path',
  'fan_in_fan_out',
  'inference_mode',
  'megatron_core',
  'peft_type',
  'peft_version',
  'qalora_group_size',
  'revision',
  'runtime_config',
  'task_type',
]);

/** Initialisations that change the base model; a finished adapter of that kind needs only its own tensors where it was converted. */
const changesBase = /^(pissa|olora|corda|loftq|eva|lora_ga|orthogonal)/;

/**
 * Reads adapter_config.json. Keys of other versions of PEFT are accepted as long as they say nothing (null, false, empty), so that an
 * adapter with a feature that is not supported is refused by the feature's name and never loaded as something else.
 */
export function parseLoraConfig(json: unknown, place: string): LoraConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new LowrankError('not an adapter configuration', {
      place,
      expected: 'a JSON object with PEFT’s LoraConfig',
      mend: 'copy the adapter again',
    });
  }
  const fields = json as Record<string, unknown>;
  if (fields.peft_type !== undefined && fields.peft_type !== 'LORA') {
    throw new LowrankError(`peft_type ${JSON.stringify(fields.peft_type)} is not supported`, {
      place,
      expected: '"LORA"',
      mend: 'merge it into its base with PEFT first',
    });
  }
  for (const [key, value] of Object.entries(fields)) {
    if (key in LoraConfig.shape || descriptive.has(key) || saysNothing(value)) continue;
    throw new LowrankError(`${key} = ${JSON.stringify(value)?.slice(0, 80)} is not supported`, {
      place: `${place}: ${key}`,
      mend: 'use an adapter without this feature, or merge it with PEFT first',
    });
  }
  const known = { ...fields };
  if (typeof known.init_lora_weights === 'string' && changesBase.test(known.init_lora_weights)) {
    throw new LowrankError(`init_lora_weights ${JSON.stringify(known.init_lora_weights)} changes the base model`, {
      place: `${place}: init_lora_weights`,
      mend: 'save the adapter with PEFT’s path_initial_model_for_weight_conversion, which makes it an ordinary LoRA',
    });
  }
  const result = LoraConfig.safeParse(known);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new LowrankError(issue.message, { place: `${place}: ${issue.path.join('.')}`, mend: 'write the value as PEFT’s LoraConfig does' });
}

function saysNothing(value: unknown): boolean {
  return value === null || value === undefined || value === false || (typeof value === 'object' && Object.keys(value).length === 0);
}
