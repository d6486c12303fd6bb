import type { StoredTensor } from '../io/checkpoint.js';
import type { ModelSource } from '../io/model-source.js';
import { findFamily } from './families.js';

/**
 * The source with its tensors under the names that its family reads. transformers' AutoModel saves a decoder without the `model.` that a
 * whole language model has before the names of all but its head, and loads either; so does this.
 */
export function withPrefix(source: ModelSource): ModelSource {
  const paths = findFamily(source.config)?.paths;
  if (!paths) return source;
  const { tensors } = source.checkpoint;
  const prefix = paths.embedding.slice(0, paths.embedding.lastIndexOf('.') + 1);
  const embedding = `${paths.embedding}.weight`;
  if (tensors.has(embedding) || !tensors.has(embedding.slice(prefix.length))) return source;
  const nameOf = (name: string) => (name.startsWith(`${paths.head}.`) ? name : `${prefix}${name}`);
  const renamed = Array.from(tensors, ([name, stored]): [string, StoredTensor] => [nameOf(name), { ...stored, name: nameOf(name) }]);
  return { ...source, checkpoint: { ...source.checkpoint, tensors: new Map(renamed) } };
}
