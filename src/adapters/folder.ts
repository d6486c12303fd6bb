import type { Checkpoint } from '../io/checkpoint.js';
import type { Folder } from '../io/folder.js';
import { readSafetensors } from '../io/safetensors.js';
import { type SavedTensor, saveTensors } from '../io/tensors.js';
import type { CausalLM } from '../nn/model.js';
import { LowrankError } from '../util/errors.js';
import { parseJson } from '../util/json.js';
import type { Adapter } from './adapter.js';
import type { LoraConfig } from './lora-config.js';
import { allocateAdapter, parseAdapterConfig } from './registry.js';
import { fillAdapter } from './stored.js';

export const adapterFile = 'adapter_model.safetensors';
export const adapterConfigFile = 'adapter_config.json';

/**
 * Writes an adapter as PEFT does: `adapter_model.safetensors` (F32) and `adapter_config.json`. `base` is base_model_name_or_path; which
 * base that is, a run's contract says.
 */
export async function saveAdapter(folder: Folder, adapter: Adapter, base: string): Promise<void> {
  await saveTensors(folder, adapterFile, tensorsForFile(adapter));
  await folder.writeText(adapterConfigFile, adapterConfigJson(adapter, base));
}

/** The tensors as PEFT's file has them. */
function tensorsForFile(adapter: Adapter): Map<string, SavedTensor> {
  const tensors = new Map<string, SavedTensor>(adapter.tensors());
  for (const [name, stack] of adapter.reordered) {
    const read = async () => new Uint8Array(stack.toFile(await stack.B.toFloat32()).buffer);
    tensors.set(name, { dtype: 'f32', shape: stack.fileShape, read });
  }
  return tensors;
}

/** adapter_config.json of an adapter: PEFT's fields with sorted keys. `base` is base_model_name_or_path. */
export function adapterConfigJson(adapter: Adapter, base: string): string {
  const { config, method, model, layers } = adapter;
  const fan_in_fan_out = [...layers.keys()].some((path) => model.fanInFanOut?.test(`${path}.weight`));
  const fields = { ...method.fileFields(config, targetsForFile(adapter)), fan_in_fan_out, base_model_name_or_path: base };
  const sorted = Object.fromEntries(Object.entries(fields).sort(([a], [b]) => (a < b ? -1 : 1)));
  return `${JSON.stringify(sorted, null, 2)}\n`;
}

/** Readers such as vLLM want a list of names: `all-linear` and the architecture's default become the endings that they stand for. */
function targetsForFile({ config, layers, model }: Adapter): string | readonly string[] {
  const { target_modules: targets } = config;
  const paths = [...layers.keys()];
  // The other parts of a multimodal model have layers of the same names.
  if (model.otherParts.length > 0) return paths.sort();
  if (Array.isArray(targets) || (targets && targets !== 'all-linear')) return targets;
  const endings = [...new Set(paths.map((path) => path.slice(path.lastIndexOf('.') + 1)))].sort();
  const chosen = new Set(paths);
  const exact = [...model.modules.keys()].every((path) => chosen.has(path) || !endings.some((ending) => path.endsWith(`.${ending}`)));
  return exact ? endings : paths.sort();
}

/** Reads what `saveAdapter` or PEFT wrote and attaches it. `identity` is the base's that files had before contracts said it. */
export async function openAdapter(folder: Folder, model: CausalLM): Promise<{ adapter: Adapter; identity?: string }> {
  const text = await folder.readText(adapterConfigFile);
  if (text === undefined) throw await noAdapter(folder);
  await refusePickle(folder);
  const checkpoint = await readSafetensors(await folder.open(adapterFile));
  try {
    const adapter = await loadAdapter(model, parseJson(text, `${folder.path}/${adapterConfigFile}`), checkpoint, folder.path);
    return { adapter, identity: checkpoint.metadata.base_identity };
  } finally {
    await checkpoint.close();
  }
}

/** Throws where a rank is larger than anything in the file, before memory for it is taken. */
function refuseOtherRank(
  { r = 0, rank_pattern }: Partial<Pick<LoraConfig, 'r' | 'rank_pattern'>>,
  { tensors }: Checkpoint,
  place: string,
): void {
  const rank = Math.max(r, ...Object.values(rank_pattern ?? {}));
  let largest = 0;
  for (const { shape } of tensors.values()) largest = Math.max(largest, ...shape);
  if (rank <= largest) return;
  const expected = `at most ${largest}, as no tensor of ${adapterFile} is larger`;
  const mend = 'take both files from one adapter';
  throw new LowrankError(`a rank of ${rank}`, { place: `${place}/${adapterConfigFile}`, expected, mend });
}

/**
 * Builds an adapter from a PEFT directory's two files and attaches it. Strict: every tensor of the file is used or a copy of the base's,
 * every trainable tensor is filled, and each has the shape that this model gives it.
 */
export async function loadAdapter(model: CausalLM, configJson: unknown, checkpoint: Checkpoint, place: string): Promise<Adapter> {
  const config = parseAdapterConfig(configJson, `${place}/${adapterConfigFile}`);
  refuseOtherRank(config, checkpoint, place);
  const adapter = allocateAdapter(model, config);
  try {
    await fillAdapter(adapter, checkpoint, `${place}/${adapterFile}`);
    return adapter;
  } catch (error) {
    adapter.dispose();
    throw error;
  }
}

/** A pickle is a program in Python, which is not run here. */
async function refusePickle(folder: Folder): Promise<void> {
  const files = await folder.list();
  if (files.includes(adapterFile) || !files.includes('adapter_model.bin')) return;
  const [from, to] = ['adapter_model.bin', adapterFile].map((name) => `${folder.path}/${name}`);
  const tensors = `{k: v.clone().contiguous() for k, v in torch.load('${from}', map_location='cpu', weights_only=True).items()}`;
  const program = `import torch; from safetensors.torch import save_file; save_file(${tensors}, '${to}', {'format': 'pt'})`;
  throw new LowrankError('the adapter is a pickle (adapter_model.bin), which only Python can read', {
    place: folder.path,
    expected: adapterFile,
    mend: `convert it: python3 -c "${program}"`,
  });
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
