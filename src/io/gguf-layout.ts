import type { JsonObject } from '../util/json.js';

/** How llama.cpp's files hold a family of models. Each family describes its own; the readers here know none by name. */
export interface GgufLayout {
  /** `general.architecture`, with which the metadata's keys begin. */
  readonly architecture: string;
  /** Whether it is the form of that architecture which has experts. */
  readonly experts?: true;
  /** What config.json says of every model of the family, `architectures` and `model_type` among it. */
  readonly config: JsonObject;
  /**
   * Hugging Face's path of each module by llama.cpp's name: `blk.attn_q` is one of every layer, and its path stands below the layer's.
   * A `*` in a path is the number of an expert: the file has one tensor of all experts.
   */
  readonly modules: Readonly<Record<string, string>>;
  /** The path that the layers' numbers follow. */
  readonly layers: string;
  /** Modules (by llama.cpp's names) whose rows the converter permutes, with the key of config.json that says how many heads they have. */
  readonly permuted: Readonly<Record<string, 'num_attention_heads' | 'num_key_value_heads'>>;
  /**
   * Modules whose rows are all queries, all keys, all values, where the model has the three of each head together, with the key of
   * config.json that says how many heads there are.
   */
  readonly regrouped?: Readonly<Record<string, 'num_attention_heads'>>;
  /** Matrices, by the model's names, that Hugging Face's files hold as [in,out] and these as [out,in]. */
  readonly fanInFanOut?: RegExp;
  /** What the converter adds to the weights of norms; default 0. */
  readonly normOffset?: number;
  /** Modules that are convolutions of each column by itself: the file has [C,K], Hugging Face [C,1,K]. */
  readonly convolutions?: readonly string[];
  /** The key of config.json for the numbers of the layers that attend, where the metadata has a count of key heads for each layer. */
  readonly attentionLayers?: string;
  /** Numbers of the metadata, by key behind the architecture's name, that become keys of config.json where they are there. */
  readonly numbers?: Readonly<Record<string, string>>;
  /** The same of metadata that is true or false. */
  readonly flags?: Readonly<Record<string, string>>;
  /** Keys of config.json, as most families have them, with what this one calls them. */
  readonly renamed?: Readonly<Record<string, string>>;
}
