import { unscoped } from '../core/scope.js';
import { empty, sameShape, type Tensor } from '../core/tensor.js';
import type { Checkpoint, StoredTensor } from '../io/checkpoint.js';
import { fillTensors, readFinite } from '../io/tensors.js';
import type { CausalLM } from '../nn/model.js';
import { LowrankError } from '../util/errors.js';
import type { Adapter } from './adapter.js';
import type { LoraStack } from './lora-experts.js';

const prefix = 'base_model.model.';

/**
 * Fills an adapter from PEFT's file. Strict: every trained tensor is filled, and every tensor of the file is used. Besides the adapter's
 * own a file may hold copies of the base's weights, which PEFT saves with a head or embedding that is adapted or resized: one that equals
 * the base's says nothing, another takes its place. Throws a LowrankError that says what does not fit, and names the base only where that
 * is what does not.
 */
export async function fillAdapter(adapter: Adapter, checkpoint: Checkpoint, place: string): Promise<void> {
  const wanted = adapter.parameters();
  const names = namesInMemory(adapter.model);
  const own = new Map<string, StoredTensor>();
  const copies: BaseCopy[] = [];
  const unexpected: string[] = [];
  for (const [storedName, stored] of checkpoint.tensors) {
    const name = names(plainName(storedName));
    if (wanted.has(name)) {
      if (name === storedName || !own.has(name)) own.set(name, stored);
      continue;
    }
    // What modules_to_save trained stands in `own`; the original beside it is not used.
    const copy = baseCopy(adapter.model, name, stored);
    if (copy) copies.push(copy);
    else unexpected.push(storedName);
  }
  const missing = [...wanted.keys()].filter((name) => !own.has(name));
  if (unexpected.length > 0) throw unknownTensor(adapter, unexpected, missing, place);
  if (missing.length > 0) throw missingTensors(missing, wanted.size, place);
  for (const copy of copies) refuseOtherShape(adapter.model, copy, place);
  for (const [name, stack] of adapter.reordered) own.set(name, reordered(own.get(name)!, stack));
  for (const [name, tensor] of wanted) refuseOther(adapter, name, tensor, own.get(name)!, place);
  await fillTensors(wanted, { ...checkpoint, tensors: own }, place);
  await adoptCopies(adapter, copies, place);
}

/** A function from names with transformers' paths to those with the checkpoint's. */
function namesInMemory({ aliases }: CausalLM): (name: string) => string {
  const paths = new Map([...(aliases ?? [])].map(([path, alias]) => [`${prefix}${alias}`, `${prefix}${path}`]));
  return (name) => {
    const end = name.search(/\.(lora_[AB]|base_layer|original_module|weight)\b/);
    const path = paths.get(name.slice(0, end));
    return path === undefined ? name : path + name.slice(end);
  };
}

/** A stack's lora_B as the device has it; as it is where its shape is wrong. */
function reordered(stored: StoredTensor, stack: LoraStack): StoredTensor {
  if (!sameShape(stored.shape, stack.fileShape)) return stored;
  const readAs: StoredTensor['readAs'] = async () => {
    const bytes = (await stored.readAs('f32')).slice();
    return new Uint8Array(stack.fromFile(new Float32Array(bytes.buffer)).buffer);
  };
  return { ...stored, shape: stack.B.shape, readAs };
}

/**
 * A file's name for a tensor without the adapter's own name, which PEFT leaves out and others do not, and without PEFT's wrappers of
 * saved modules.
 */
function plainName(name: string): string {
  return name
    .replace(/(\.lora_[AB])\.[^.]+\.(weight|bias)$/, '$1.$2')
    .replace(/(\.lora_(?:embedding_[AB]|magnitude_vector))\.[^.]+$/, '$1')
    .replace(/\.modules_to_save\.(?:[^.]+\.)??(weight|bias)$/, '.$1');
}

/** A weight or bias of the base that a file holds a copy of. */
interface BaseCopy {
  path: string;
  key: 'weight' | 'bias';
  base: Tensor;
  stored: StoredTensor;
}

function baseCopy(model: CausalLM, name: string, stored: StoredTensor): BaseCopy | undefined {
  const match = /^(.*?)(?:\.base_layer|\.original_module)?\.(weight|bias)$/.exec(name.startsWith(prefix) ? name.slice(prefix.length) : '');
  const module = match ? model.modules.get(match[1]) : undefined;
  if (!match || !module) return undefined;
  const [, path, key] = match as unknown as [string, string, BaseCopy['key']];
  const base = key === 'weight' ? module.weight : module.bias;
  return base && { path, key, base, stored };
}

/** Copies that differ from the base's weights take their place. A tied pair is one matrix: PEFT loads the head's copy last. */
async function adoptCopies(adapter: Adapter, copies: readonly BaseCopy[], place: string): Promise<void> {
  const { backend, paths, tied } = adapter.model;
  const pair = [paths.embedding, paths.head];
  const isTied = ({ path, key }: BaseCopy) => tied && key === 'weight' && pair.includes(path);
  const last = copies.findLast((copy) => isTied(copy) && copy.path === paths.head) ?? copies.findLast(isTied);
  for (const copy of copies) {
    const { key, base, stored } = copy;
    if ((isTied(copy) && copy !== last) || (await equals(base, stored))) continue;
    const tensor = unscoped(() => empty(backend, base.shape, 'f32', 'adapters'));
    tensor.write(await readFinite(stored, place));
    adapter.adopt(isTied(copy) ? pair : [copy.path], key, tensor);
  }
}

/** Whether a stored tensor, in the dtype that the base has here, is the base's, byte for byte. */
async function equals(base: Tensor, stored: StoredTensor): Promise<boolean> {
  const { dtype } = base;
  if (base.quantization || (dtype !== 'f32' && dtype !== 'bf16' && dtype !== 'f16')) return false;
  const [ours, theirs] = [await base.read(), await stored.readAs(dtype)];
  return ours.length === theirs.length && ours.every((byte, i) => byte === theirs[i]);
}

const shapeText = (shape: readonly number[]) => `[${shape.join(', ')}]`;

function refuseOtherShape({ vocabulary, paths }: CausalLM, { path, base, stored }: BaseCopy, place: string): void {
  if (sameShape(base.shape, stored.shape)) return;
  const words = (path === paths.head || path === paths.embedding) && stored.shape[1] === base.shape[1];
  const sizes = `: the vocabulary of this base has ${vocabulary} entries, that of the adapter's ${stored.shape[0]}`;
  throw new LowrankError(`tensor "${stored.name}" has shape ${shapeText(stored.shape)}`, {
    place,
    expected: shapeText(base.shape) + (words ? sizes : ''),
    mend: words
      ? 'save the base with its resized embeddings (save_pretrained after resize_token_embeddings), and use the adapter with that'
      : 'use the adapter with the base model that it was trained on',
  });
}

/** A matrix of the adapter has the rank of the configuration in one dimension and the base's width in the other. */
function refuseOther({ config }: Adapter, name: string, tensor: Tensor, stored: StoredTensor, place: string): void {
  if (sameShape(tensor.shape, stored.shape)) return;
  const rank = /lora_(A\.weight|embedding_A)$/.test(name) ? 0 : /lora_(B\.weight|embedding_B)$/.test(name) ? 1 : undefined;
  const rankAlone = rank !== undefined && stored.shape.length === 2 && stored.shape[1 - rank] === tensor.shape[1 - rank];
  const { r } = config as { r?: number };
  const ranks = `: the configuration says rank ${tensor.shape[rank ?? 0]}${r === tensor.shape[rank ?? 0] ? '' : ' here (rank_pattern)'}`;
  throw new LowrankError(`tensor "${stored.name}" has shape ${shapeText(stored.shape)}`, {
    place,
    expected: shapeText(tensor.shape) + (rankAlone ? ranks : ' for this base model'),
    mend: rankAlone
      ? 'take adapter_config.json and the tensors from the same save'
      : 'use the adapter with the base model that it was trained on',
  });
}

function missingTensors(missing: readonly string[], all: number, place: string): LowrankError {
  return new LowrankError(`${missing.length} of the adapter's ${all} tensors missing, such as "${missing[0]}"`, {
    place,
    expected: 'every tensor that adapter_config.json asks for',
    mend: 'copy the adapter again, or save it again with PEFT: its file is incomplete, or adapter_config.json is of another one',
  });
}

/**
 * Tensors that belong to nothing: of modules that this base lacks, of another method, or of modules that the configuration does not name.
 */
function unknownTensor({ model, config }: Adapter, names: readonly string[], missing: readonly string[], place: string): LowrankError {
  const [name] = names;
  const plain = plainName(name).replace(prefix, '');
  const path = [...model.modules.keys()].find((module) => plain.startsWith(`${module}.`));
  const part = path === undefined ? undefined : plain.slice(path.length + 1);
  const others = missing.length > 0 ? `; ${missing.length} are missing, such as "${missing[0]}"` : '';
  const fail = (expected: string, mend: string) =>
    new LowrankError(`the tensors do not fit: ${names.length} unexpected, such as "${name}"${others}`, { place, expected, mend });
  if (model.otherParts.some((other) => plain.startsWith(`${other}.`)))
    return fail(
      'an adapter of the text part, which alone is loaded',
      'merge it into its base with PEFT, or train one of the text part alone',
    );
  if (part === undefined) {
    const module = plain.replace(/\.(lora_[AB]\.)?(weight|bias)$/, '');
    return fail(`modules of this base model, which has no "${module}"`, 'use the adapter with the base model that it was trained on');
  }
  if (!/^(lora_embedding_[AB]|((lora_[AB]|base_layer|original_module)\.)?(weight|bias))$/.test(part) || part === 'lora_B.bias')
    return fail(`tensors of ${config.peft_type}: ${part} is not supported`, 'merge the adapter into its base with PEFT first');
  return fail(
    `tensors of the modules that adapter_config.json names, which are not "${path}"`,
    'take adapter_config.json and the tensors from the same save',
  );
}
