import { fromFanInFanOut, type StoredTensor } from '../io/checkpoint.js';
import type { ModelSource } from '../io/model-source.js';
import { findFamily } from './families.js';

/**
 * The source with its tensors under the names that its family's modules have, whatever its files call them. transformers' AutoModel saves a
 * decoder without the `model.` that a whole language model has before the names of all but its head; multimodal models have had more than
 * one layout; what belongs to their other parts, or to nothing, is set apart.
 */
export function withModelNames(source: ModelSource): ModelSource {
  const family = findFamily(source.config);
  if (!family) return source;
  const { paths, prefixes = [''], storedHead = paths.head, otherParts, unused, fanInFanOut } = family;
  const { tensors } = source.checkpoint;
  const prefix = paths.embedding.slice(0, paths.embedding.lastIndexOf('.') + 1);
  const embedding = `${paths.embedding.slice(prefix.length)}.weight`;
  const found = [prefix, ...prefixes].find((each) => tensors.has(each + embedding)) ?? prefix;
  const nameOf = (name: string): string | undefined => {
    if (unused?.test(name)) return undefined;
    if (name.startsWith(`${paths.head}.`)) return name;
    if (name.startsWith(`${storedHead}.`)) return paths.head + name.slice(storedHead.length);
    return name.startsWith(found) ? prefix + name.slice(found.length) : otherParts ? undefined : name;
  };
  const named = new Map<string, StoredTensor>();
  const others: StoredTensor[] = [];
  for (const stored of tensors.values()) {
    const name = nameOf(stored.name);
    if (name === undefined) {
      others.push(stored);
      continue;
    }
    const inOrder = fanInFanOut?.test(name) && !stored.fanInFanOut ? fromFanInFanOut(stored) : stored;
    // What AutoModel saved is written as a whole language model's.
    named.set(name, found === '' ? { ...inOrder, name } : inOrder);
  }
  return { ...source, checkpoint: { ...source.checkpoint, tensors: named, others } };
}
