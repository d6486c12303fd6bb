import type { z } from 'zod';
import { LowrankError } from '../util/errors.js';

/** Checks a config.json against an architecture's schema; the error names the model and every key that is wrong. */
export function parseConfig<S extends z.ZodType>(schema: S, config: Readonly<Record<string, unknown>>, model: string): z.output<S> {
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
  parameters.rope_theta ??= config.rope_theta;
  if (parameters.rope_type === 'yarn') parameters.original_max_position_embeddings ??= config.max_position_embeddings;
  return parameters;
}
