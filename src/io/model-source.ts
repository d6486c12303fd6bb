import type { JsonObject } from '../util/json.js';
import type { Checkpoint } from './checkpoint.js';

/** A model that can be loaded, wherever it came from: Hugging Face's files as objects, and its tensors. */
export interface ModelSource {
  /** What the user wrote, for messages. */
  readonly name: string;
  /** config.json */
  readonly config: JsonObject;
  readonly tokenizer: { tokenizerJson: JsonObject; tokenizerConfig: JsonObject; chatTemplate?: string };
  readonly checkpoint: Checkpoint;
  /** Says which base this is: the hub's revision, or a hash of the files. */
  readonly identity: string;
}
