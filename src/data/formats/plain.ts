import type { Format } from './index.js';

/** Plain text: `text`, or the column that `field` names. */
export const completion: Format = {
  keys: [['text']],
  read: (row, { field = 'text' }) => ({ kind: 'text', prompt: '', completion: row.text(field) }),
};

/**
 * TRL's pairs of texts: `prompt` is read and `completion` trained, exactly as they stand; pairs of messages are conversations.
 * https://huggingface.co/docs/trl/dataset_formats#prompt-completion
 */
export const promptCompletion: Format = {
  keys: [['prompt', 'completion']],
  read: (row) => ({ kind: 'text', prompt: row.text('prompt'), completion: row.text('completion') }),
};

/** Token ids and labels made elsewhere. */
export const tokenized: Format = {
  keys: [['input_ids', 'labels']],
  read: (row) => ({ kind: 'tokens', inputIds: row.list('input_ids'), labels: row.list('labels') }),
};
