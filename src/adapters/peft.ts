import type { Checkpoint } from '../io/checkpoint.js';
import { fillTensors } from '../io/tensors.js';
import type { CausalLM } from '../nn/model.js';
import { type LoraConfig, parseLoraConfig } from './config.js';
import { LoraAdapter } from './lora.js';

/** The fields of PEFT 0.21's LoraConfig that are written with their defaults because nothing here sets them. */
const unusedFields = {
  alora_invocation_tokens: null,
  arrow_config: null,
  auto_mapping: null,
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  fan_in_fan_out: false,
  inference_mode: true,
  layer_replication: null,
  loftq_config: {},
  lora_bias: false,
  megatron_config: null,
  megatron_core: 'megatron.core',
  peft_type: 'LORA',
  qalora_group_size: 16,
  revision: null,
  target_parameters: null,
  task_type: 'CAUSAL_LM',
  trainable_token_indices: null,
  use_dora: false,
  use_qalora: false,
};

/** adapter_config.json of an adapter: PEFT's fields with sorted keys. `base` is base_model_name_or_path. */
export function adapterConfigJson({ config, layers, model }: LoraAdapter, base: string): string {
  const fields: Record<string, unknown> = { ...unusedFields, ...nulls(config), base_model_name_or_path: base };
  fields.target_modules = targetsForFile(config, [...layers.keys()], model);
  fields.rank_pattern ??= {};
  fields.alpha_pattern ??= {};
  const sorted = Object.fromEntries(Object.entries(fields).sort(([a], [b]) => (a < b ? -1 : 1)));
  return `${JSON.stringify(sorted, null, 2)}\n`;
}

function nulls(config: LoraConfig): Record<string, unknown> {
  const keys = ['target_modules', 'exclude_modules', 'layers_to_transform', 'layers_pattern', 'modules_to_save'];
  return { ...Object.fromEntries(keys.map((key) => [key, null])), ...config };
}

/** Readers such as vLLM want a list of names: `all-linear` and the architecture's default become the endings that they stand for. */
function targetsForFile({ target_modules: targets }: LoraConfig, paths: string[], model: CausalLM): string | string[] {
  if (Array.isArray(targets) || (targets && targets !== 'all-linear')) return targets;
  const endings = [...new Set(paths.map((path) => path.slice(path.lastIndexOf('.') + 1)))].sort();
  const chosen = new Set(paths);
  const exact = [...model.modules.keys()].every((path) => chosen.has(path) || !endings.some((ending) => path.endsWith(`.${ending}`)));
  return exact ? endings : [...paths].sort();
}

/**
 * Builds an adapter from a PEFT directory's two files and attaches it. Strict: every tensor of the file is used, every trainable tensor is
 * filled, and each has the shape that this model gives it.
 */
export async function loadAdapter(model: CausalLM, configJson: unknown, checkpoint: Checkpoint, place: string): Promise<LoraAdapter> {
  const config = parseLoraConfig(configJson, `${place}/adapter_config.json`);
  const adapter = LoraAdapter.allocate(model, config);
  try {
    await fillTensors(adapter.parameters(), checkpoint, `${place}/adapter_model.safetensors`);
    return adapter;
  } catch (error) {
    adapter.dispose();
    throw error;
  }
}
