import { sameShape, type Tensor } from '../core/tensor.js';
import { LowrankError } from '../util/errors.js';
import { type Checkpoint, type StoredTensor, view } from './checkpoint.js';
import type { Folder } from './folder.js';
import { encodeSafetensors, readSafetensors } from './safetensors.js';

/** What can be saved: a tensor, or numbers that are made when their turn comes. */
export type SavedTensor = Pick<Tensor, 'dtype' | 'shape' | 'read'>;

/** Writes device tensors, f32 or u8, into one safetensors file. */
export async function saveTensors(
  folder: Folder,
  name: string,
  tensors: ReadonlyMap<string, SavedTensor>,
  metadata: Record<string, string> = {},
): Promise<void> {
  const entries = [...tensors].map(([key, tensor]) => ({
    name: key,
    dtype: storedType(tensor),
    shape: tensor.shape,
    data: () => tensor.read(),
  }));
  // `format` is what transformers and PEFT look for.
  await folder.write(name, encodeSafetensors(entries, { format: 'pt', ...metadata }));
}

/** How a tensor's dtype is called in a file. */
function storedType(tensor: SavedTensor): string {
  if (tensor.dtype === 'f32') return 'F32';
  if (tensor.dtype === 'u8') return 'U8';
  throw new LowrankError(`a tensor of ${tensor.dtype}`, { place: 'saveTensors', expected: 'f32 or u8' });
}

/** Fills device tensors from a file that `saveTensors` wrote. */
export async function restoreTensors(folder: Folder, name: string, tensors: ReadonlyMap<string, Tensor>): Promise<void> {
  const checkpoint = await readSafetensors(await folder.open(name));
  try {
    await fillTensors(tensors, checkpoint, `${folder.path}/${name}`);
  } finally {
    await checkpoint.close();
  }
}

/**
 * Writes a file's tensors into device tensors of the same names and shapes, f32 or u8 (codes, which a file holds as U8); both sides must
 * match exactly.
 */
export async function fillTensors(tensors: ReadonlyMap<string, Tensor>, checkpoint: Checkpoint, place: string): Promise<void> {
  const missing = [...tensors.keys()].filter((name) => !checkpoint.tensors.has(name));
  const unexpected = [...checkpoint.tensors.keys()].filter((name) => !tensors.has(name));
  if (missing.length > 0 || unexpected.length > 0) {
    const lists = [
      missing.length && `${missing.length} missing, such as "${missing[0]}"`,
      unexpected.length && `${unexpected.length} unexpected, such as "${unexpected[0]}"`,
    ];
    throw new LowrankError(`the tensors do not fit the model: ${lists.filter(Boolean).join('; ')}`, {
      place,
      expected: `${tensors.size} tensors, as the base model and the configuration say`,
      mend: 'use the files with the base model that they were trained on',
    });
  }
  for (const [name, tensor] of tensors) {
    const stored = checkpoint.tensors.get(name)!;
    if (!sameShape(stored.shape, tensor.shape)) {
      throw new LowrankError(`tensor "${name}" has shape [${stored.shape.join(', ')}]`, {
        place,
        expected: `[${tensor.shape.join(', ')}] for this base model`,
        mend: 'use the files with the base model that they were trained on',
      });
    }
  }
  for (const [name, tensor] of tensors) {
    const stored = checkpoint.tensors.get(name)!;
    if ((tensor.dtype === 'u8') !== (stored.dtype === 'U8')) {
      const expected = tensor.dtype === 'u8' ? 'U8' : 'a float dtype';
      throw new LowrankError(`tensor "${name}" is ${stored.dtype}`, { place, expected, mend: 'use a file that was not changed' });
    }
    tensor.write(tensor.dtype === 'u8' ? await stored.read() : await readFinite(stored, place));
  }
}

/** A stored tensor's elements as f32. Throws a LowrankError that names it where one is NaN or infinite: it would spoil everything. */
export async function readFinite(stored: StoredTensor, place: string): Promise<Uint8Array> {
  const bytes = await stored.readAs('f32');
  const values = view(Float32Array, bytes);
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return bytes;
  throw new LowrankError(`tensor "${stored.name}" holds ${values[at]}, the first time as element ${at}`, {
    place,
    expected: 'finite numbers',
    mend: 'copy the file again, or take one that was saved before the training broke down',
  });
}
