import type { Folder } from '../io/folder.js';
import { readSafetensors } from '../io/safetensors.js';
import { saveTensors } from '../io/tensors.js';
import type { CausalLM } from '../nn/model.js';
import { LowrankError } from '../util/errors.js';
import { parseJson } from '../util/json.js';
import type { LoraAdapter } from './lora.js';
import { adapterConfigJson, loadAdapter } from './peft.js';

/** The base that an adapter was trained on. */
export interface BaseModel {
  /** base_model_name_or_path */
  name: string;
  /** `ModelSource.identity`; kept in the safetensors file's metadata. */
  identity: string;
}

export const adapterFile = 'adapter_model.safetensors';
export const adapterConfigFile = 'adapter_config.json';

/** Writes an adapter as PEFT does: `adapter_model.safetensors` (F32) and `adapter_config.json`. */
export async function saveAdapter(folder: Folder, adapter: LoraAdapter, base: BaseModel): Promise<void> {
  await saveTensors(folder, adapterFile, adapter.parameters(), { base_identity: base.identity });
  await folder.writeText(adapterConfigFile, adapterConfigJson(adapter, base.name));
}

/** Reads what `saveAdapter` or PEFT wrote and attaches it. `identity` is the recorded base, where there is one. */
export async function openAdapter(folder: Folder, model: CausalLM): Promise<{ adapter: LoraAdapter; identity?: string }> {
  const text = await folder.readText(adapterConfigFile);
  if (text === undefined) throw await noAdapter(folder);
  const checkpoint = await readSafetensors(await folder.open(adapterFile));
  try {
    const adapter = await loadAdapter(model, parseJson(text, `${folder.path}/${adapterConfigFile}`), checkpoint, folder.path);
    return { adapter, identity: checkpoint.metadata.base_identity };
  } finally {
    await checkpoint.close();
  }
}

/** Why a folder without adapter_config.json is no adapter. */
export async function noAdapter(folder: Folder): Promise<LowrankError> {
  const whole = (await folder.list()).includes('config.json');
  return new LowrankError(whole ? 'holds a whole model, not an adapter' : `holds no ${adapterConfigFile}`, {
    place: folder.path,
    expected: 'an adapter’s folder that PEFT or lowrank wrote',
    mend: whole
      ? 'there is nothing to merge or to attach: give the folder as the model (--model, or base_model in a recipe)'
      : 'give the folder of the adapter (the recipe’s output_dir)',
  });
}
