import { openModelFromFiles as openFiles } from '../io/browser.js';
import type { ModelSource } from '../io/model-source.js';
import { ggufLayouts } from './families.js';
import { withModelNames } from './names.js';

/**
 * A model from files that a user has chosen: one .gguf file, or those of a folder in Hugging Face's layout; `name` stands for them in
 * messages.
 */
export async function openModelFromFiles(files: Iterable<File>, name?: string): Promise<ModelSource> {
  return withModelNames(await openFiles(files, { layouts: ggufLayouts(), name }));
}
