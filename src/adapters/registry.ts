import type { CausalLM } from '../nn/model.js';
import { LowrankError } from '../util/errors.js';
import { isObject, type JsonObject, type JsonValue } from '../util/json.js';
import { Adapter, type AdapterConfig, type AdapterMethod } from './adapter.js';
import { lora } from './lora.js';

/** The methods by PEFT's `peft_type`: a new one is a file beside lora.ts and a line here. */
const methods: Readonly<Record<string, AdapterMethod>> = { LORA: lora };

/** Keys of adapter_config.json that change nothing in what an adapter computes, or that only say where it came from. */
const descriptive = new Set([
  'auto_mapping',
  'base_model_name_or_path',
  'eva_config',
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

/**
 * Reads adapter_config.json; `peft_type` is LORA where it is absent. Keys of other versions of PEFT are accepted as long as they say
 * nothing (null, false, empty), so that an adapter with a feature that is not supported is refused by the feature's name and never loaded
 * as something else.
 */
export function parseAdapterConfig(json: unknown, place: string): AdapterConfig {
  if (!isObject(json as JsonValue)) {
    throw new LowrankError('not an adapter configuration', {
      place,
      expected: 'a JSON object with PEFT’s LoraConfig',
      mend: 'copy the adapter again',
    });
  }
  const fields = json as JsonObject;
  const { peft_type = 'LORA' } = fields;
  const method = typeof peft_type === 'string' && Object.hasOwn(methods, peft_type) ? methods[peft_type] : undefined;
  if (!method) {
    throw new LowrankError(`peft_type ${JSON.stringify(peft_type)} is not supported`, {
      place,
      expected: Object.keys(methods)
        .map((name) => JSON.stringify(name))
        .join(', '),
      mend: 'merge it into its base with PEFT first',
    });
  }
  for (const [key, value] of Object.entries(fields)) {
    if (method.keys.has(key) || descriptive.has(key) || saysNothing(value)) continue;
    throw new LowrankError(`${key} = ${JSON.stringify(value)?.slice(0, 80)} is not supported`, {
      place: `${place}: ${key}`,
      mend: 'use an adapter without this feature, or merge it with PEFT first',
    });
  }
  method.refuse(fields, place);
  const result = method.schema.safeParse({ ...fields, peft_type });
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new LowrankError(issue.message, { place: `${place}: ${issue.path.join('.')}`, mend: 'write the value as PEFT’s LoraConfig does' });
}

function saysNothing(value: unknown): boolean {
  return value === null || value === undefined || value === false || (typeof value === 'object' && Object.keys(value).length === 0);
}

/** An adapter, attached, whose matrices hold nothing sensible yet; a file's tensors fill them. */
export function allocateAdapter(model: CausalLM, config: AdapterConfig): Adapter {
  return new Adapter(model, methods[config.peft_type], config);
}

/** A new adapter, attached, with its first values; the same for the same seed. */
export async function createAdapter(model: CausalLM, config: AdapterConfig, seed: number): Promise<Adapter> {
  const adapter = allocateAdapter(model, config);
  await adapter.initialize(seed);
  return adapter;
}
