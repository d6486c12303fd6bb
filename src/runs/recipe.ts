import { type Document, isMap, isScalar, LineCounter, type Node, parseDocument } from 'yaml';
import { z } from 'zod';
import { LoraConfig } from '../adapters/lora-config.js';
import { datasetTypes } from '../data/formats/index.js';
import type { LoadOptions } from '../models/load.js';
import { standardQuantization } from '../models/quantize.js';
import { isTemplateChoice, namedTemplates } from '../models/templates/index.js';
import { type OptimizerName, optimizers } from '../optim/optimizer.js';
import { schedulers } from '../optim/schedule.js';
import { LowrankError, nearest } from '../util/errors.js';
import { keyOfOthers } from './other-names.js';

const count = z.int();
const endPolicy = z.enum(['all', 'turn', 'last', 'none']);

const dataset = z.strictObject({
  path: z.string().min(1).describe('file of rows: .jsonl or .json; relative to the recipe or the current folder'),
  type: z.enum(datasetTypes).optional().describe('format; default: recognised by the keys of the first row'),
  field: z.string().optional().describe('key of a completion’s text; default text'),
  field_messages: z.string().optional().describe('key of a conversation; default messages, or conversations'),
  field_tools: z.string().optional().describe('key of the tools that a conversation may use; default tools'),
  message_property_mappings: z
    .strictObject({ role: z.string().optional(), content: z.string().optional() })
    .optional()
    .describe('what role and content are called in messages; default their own names, or from and value'),
  roles: z.record(z.string(), z.array(z.string())).optional().describe('role: names that stand for it'),
  roles_to_train: z.array(z.string()).optional().describe('default [assistant]'),
  train_on_eos: endPolicy.optional().describe('whose terminators are supervised; default turn: those of trained turns'),
  train_on_eot: endPolicy.optional().describe('the same for tokens that end a turn but not the text; default as train_on_eos'),
  message_field_training: z.string().optional().describe('key of a message, true or false, 1 or 0, that says whether it is trained'),
  drop_system_message: z.boolean().optional().describe('leave out a first message of role system'),
});

/** A path alone stands for a data set whose format is recognised. */
const entry = z.preprocess((value) => (typeof value === 'string' ? { path: value } : value), dataset);
/** And one path stands for a list of it. */
const datasets = (least: number) => z.preprocess((value) => (typeof value === 'string' ? [value] : value), z.array(entry).min(least));

const patterns = <T extends z.ZodType>(value: T) => z.record(z.string(), value).optional();

/**
 * A recipe: the keys are Axolotl's (https://docs.axolotl.ai/docs/config-reference.html). This declaration is the one place where a
 * setting's name, type, range, default and help are written.
 */
export const Recipe = z.strictObject({
  base_model: z.string().min(1).describe('Hugging Face id, folder, or .gguf file'),
  revision_of_model: z.string().optional().describe('branch, tag or commit on the hub; default main'),
  adapter: z
    .preprocess((value) => (value === null ? 'full' : value), z.enum(['lora', 'qlora', 'full']))
    .default('lora')
    .describe('lora; qlora: lora with load_in_4bit; full: every weight, as null means'),
  load_in_4bit: z.boolean().optional().describe('quantise the frozen matrices to 4 bits; with adapter: qlora it is true'),
  load_in_8bit: z.boolean().default(false).describe('quantise them to 8 bits'),
  bnb_config_kwargs: z
    .strictObject({
      bnb_4bit_quant_type: z.enum(['nf4', 'fp4']).default(standardQuantization.kind as 'nf4'),
      bnb_4bit_use_double_quant: z.boolean().default(standardQuantization.double),
    })
    .prefault({})
    .describe('how 4 bits are made: bnb_4bit_quant_type nf4 (default) or fp4, bnb_4bit_use_double_quant (true)'),
  bf16: z
    .union([z.boolean(), z.literal('auto')])
    .default('auto')
    .describe('weights and activations in bf16; false: everything in f32'),

  lora_r: LoraConfig.shape.r.unwrap().default(16).describe('rank'),
  lora_alpha: z.number().positive().optional().describe('the update is scaled by lora_alpha / lora_r; default 2 · lora_r'),
  lora_dropout: z.number().min(0).lt(1).default(0.05),
  lora_target_linear: z.boolean().optional().describe('all linear layers but the head; the default where no targets are set'),
  lora_target_modules: LoraConfig.shape.target_modules.unwrap().unwrap().optional().describe('names of layers, or a regular expression'),
  lora_target_parameters: z
    .array(z.string().min(1))
    .optional()
    .describe('parameters of experts by the names of transformers, such as mlp.experts.gate_up_proj'),
  lora_exclude_modules: LoraConfig.shape.exclude_modules.unwrap().unwrap().optional().describe('layers left out, as lora_target_modules'),
  lora_modules_to_save: z.array(z.string()).optional().describe('modules trained as a whole, such as lm_head'),
  lora_rank_pattern: patterns(count.min(1)).describe('ranks of layers by regular expression'),
  lora_alpha_pattern: patterns(z.number().positive()).describe('alphas of layers by regular expression'),
  lora_bias: LoraConfig.shape.bias.unwrap().default('none').describe('biases that are trained'),
  lora_model_dir: z.string().optional().describe('adapter to begin with instead of a new one'),
  peft_use_rslora: z.boolean().default(false).describe('scale by alpha / √r'),
  peft_layers_to_transform: z
    .union([z.array(count), count])
    .optional()
    .describe('numbers of the layers that get adapters'),
  peft_init_lora_weights: z.union([z.boolean(), z.literal('gaussian')]).default(true),

  datasets: datasets(1).describe('training data: a path, a list of paths, or of {path, type, …}'),
  test_datasets: datasets(0).optional().describe('held-out data'),
  val_set_size: z.number().min(0).default(0).describe('split off for evaluation: a share below 1, or a number of examples'),
  shuffle_merged_datasets: z.boolean().default(true).describe('shuffle in every epoch'),
  train_on_inputs: z.boolean().default(false).describe('supervise prompts, too'),
  chat_template: z
    .string()
    .refine(isTemplateChoice, { error: 'there is no such template' })
    .optional()
    .describe(
      `template instead of the model’s own: ${Object.keys(namedTemplates).join(', ')}; ` +
        'tokenizer_default_fallback_NAME: where it has none; jinja: chat_template_jinja',
    ),
  chat_template_jinja: z.string().optional().describe('template instead of the model’s own, as text or the path of a file'),
  special_tokens: z
    .strictObject({
      bos_token: z.string().optional(),
      eos_token: z.string().optional(),
      pad_token: z.string().optional(),
      unk_token: z.string().optional(),
      additional_special_tokens: z.array(z.string()).optional(),
    })
    .optional()
    .describe('bos_token, eos_token, pad_token, unk_token, additional_special_tokens: tokens of the vocabulary that become special'),
  eot_tokens: z.array(z.string()).optional().describe('tokens that end a turn though the tokenizer does not call them special'),
  output_router_logits: z.boolean().optional().describe('train experts with their balancing loss; default: what config.json says'),
  router_aux_loss_coef: z.number().min(0).optional().describe('factor of the balancing loss; default: what config.json says'),
  sequence_len: count.min(2).default(512).describe('longest example, in tokens'),
  excess_length_strategy: z.enum(['drop', 'truncate', 'raise']).default('drop').describe('what happens to longer ones'),
  invalid_rows_strategy: z
    .enum(['raise', 'drop'])
    .default('raise')
    .describe('what happens to rows that cannot be read or that the chat template refuses'),
  sample_packing: z.boolean().default(false).describe('fill batches up to sequence_len × micro_batch_size tokens'),
  group_by_length: z.boolean().default(false),

  micro_batch_size: count.min(1).default(1).describe('examples of a forward pass; they are never padded'),
  gradient_accumulation_steps: count.min(1).default(1),
  num_epochs: z.number().positive().default(1),
  max_steps: count.min(1).optional().describe('optimizer steps instead of num_epochs, over as many epochs as they take'),
  learning_rate: z.number().positive().default(2e-4),
  lr_scheduler: z.enum(schedulers).default('cosine'),
  cosine_min_lr_ratio: z.number().min(0).max(1).default(0),
  warmup_ratio: z.number().min(0).max(1).default(0).describe('share of the steps'),
  warmup_steps: count.min(0).optional().describe('instead of warmup_ratio'),
  optimizer: z
    .enum(Object.keys(optimizers) as [OptimizerName, ...OptimizerName[]])
    .default('adamw_torch')
    .describe('adamw_torch_8bit is adamw_bnb_8bit: bitsandbytes’ codes'),
  memory_limit: z
    .number()
    .positive()
    .optional()
    .describe('GB; while the process holds more, paged optimizers keep their states on the disk of output_dir'),
  weight_decay: z.number().min(0).default(0),
  max_grad_norm: z.number().min(0).default(1).describe('0 for no clipping'),
  adam_beta1: z.number().min(0).lt(1).default(0.9),
  adam_beta2: z.number().min(0).lt(1).default(0.999).describe('adam_beta1 and adam_beta2 are Lion’s betas, too'),
  adam_epsilon: z.number().positive().default(1e-8),
  gradient_checkpointing: z
    .union([z.boolean(), z.literal('offload_disk')])
    .default(false)
    .describe(
      'keep little of each layer and compute the rest again: less memory, slower; offload_disk: keep that on the disk of output_dir',
    ),
  stream_base: z
    .union([z.boolean(), z.literal('auto')])
    .default('auto')
    .describe('read the frozen weights from their file as they are used; auto: where half of the memory does not hold them'),

  output_dir: z.string().min(1).default('./model-out').describe('relative to the current folder'),
  logging_steps: count.min(1).default(1),
  saves_per_epoch: count.min(1).optional().describe('checkpoints; default 1'),
  save_steps: count.min(1).optional().describe('instead of saves_per_epoch'),
  save_total_limit: count.min(1).default(4).describe('older checkpoints are removed'),
  evals_per_epoch: count.min(1).optional().describe('with test_datasets or val_set_size; default 1'),
  eval_steps: count.min(1).optional().describe('instead of evals_per_epoch'),
  eval_max_new_tokens: count.min(1).default(256).describe('longest answer that `lowrank eval` generates'),
  seed: count.min(0).max(0xffff_ffff).default(42),
});
export type Recipe = z.output<typeof Recipe>;
export type RecipeDataset = z.output<typeof dataset>;

/** A recipe as one writes it: with the keys that differ from their defaults. */
export type RecipeInput = Omit<z.input<typeof Recipe>, 'adapter' | 'datasets' | 'test_datasets'> & {
  adapter?: Recipe['adapter'] | null;
  datasets: string | (string | RecipeDataset)[];
  test_datasets?: string | (string | RecipeDataset)[];
};

/** Keys that may change between a run and its continuation: they do not touch what is computed. */
export const changeableKeys: ReadonlySet<string> = new Set<keyof Recipe>([
  'base_model',
  'datasets',
  'test_datasets',
  'output_dir',
  'logging_steps',
  'saves_per_epoch',
  'save_steps',
  'save_total_limit',
  'evals_per_epoch',
  'eval_steps',
  'eval_max_new_tokens',
  'memory_limit',
]);

/** Larger files are not recipes. */
const maxCharacters = 1 << 20;

/**
 * Reads a recipe. `overrides` are `key=value` texts of a command line, whose values are YAML; `lora_rank_pattern.q_proj=8` reaches into
 * an object. Every error names line and column, or the override.
 */
export function parseRecipe(text: string, name: string, overrides: readonly string[] = []): Recipe {
  if (text.length > maxCharacters)
    throw new LowrankError(`${text.length} characters long`, {
      place: name,
      expected: 'a recipe',
      mend: 'check that this is the right file',
    });
  const lines = new LineCounter();
  const doc = parseDocument(text, { lineCounter: lines, maxAliasCount: 20, prettyErrors: false, strict: true, uniqueKeys: true } as never);
  const [problem] = [...doc.errors, ...doc.warnings];
  if (problem) {
    const { line, col } = lines.linePos(problem.pos[0]);
    throw new LowrankError(`not valid YAML: ${problem.message}`, { place: `${name}:${line}:${col}`, mend: 'correct the line' });
  }
  if (!isMap(doc.contents)) {
    throw new LowrankError('not a recipe', {
      place: `${name}:1:1`,
      expected: 'lines of `key: value`',
      mend: 'begin with base_model and datasets',
    });
  }
  const overridden = overrides.map((override) => applyOverride(doc, override));
  const result = Recipe.safeParse(plainValues(doc, name));
  if (result.success) return result.data;
  const placeOf = (path: Path, atKey: boolean) => {
    if (overridden.some((keys) => keys.every((key, i) => key === String(path[i])))) return `command line: ${path.join('.')}`;
    const { line, col } = lines.linePos(offsetOf(doc, path, atKey));
    return `${name}:${line}:${col}`;
  };
  throw explain(result.error.issues[0], placeOf, (path) => doc.getIn(path) !== undefined);
}

/** A recipe out of an object, with all defaults. Errors name the key; `name` is what they call the recipe. */
export function checkRecipe(recipe: RecipeInput, name = 'recipe'): Recipe {
  if (typeof recipe !== 'object' || recipe === null || Array.isArray(recipe))
    throw new LowrankError('not a recipe', { place: name, expected: 'an object with keys', mend: 'begin with base_model and datasets' });
  const result = Recipe.safeParse(recipe);
  if (result.success) return result.data;
  const valueAt = (path: Path) => path.reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], recipe);
  throw explain(
    result.error.issues[0],
    () => name,
    (path) => valueAt(path) !== undefined,
  );
}

type Path = readonly (string | number)[];

function plainValues(doc: Document, name: string): unknown {
  try {
    return doc.toJS({ maxAliasCount: 20 });
  } catch (error) {
    throw new LowrankError(`not valid YAML: ${error instanceof Error ? error.message : error}`, {
      place: name,
      mend: 'write the values out',
    });
  }
}

function applyOverride(doc: Document, override: string): string[] {
  const place = `command line: ${override.slice(0, 80)}`;
  const at = override.indexOf('=');
  if (at < 1)
    throw new LowrankError('not an override', {
      place,
      expected: 'key=value, such as learning_rate=1e-4',
      mend: 'correct it, or put an option’s two dashes before it',
    });
  const path = override.slice(0, at).split('.');
  const value = parseDocument(override.slice(at + 1));
  if (value.errors.length > 0)
    throw new LowrankError(`the value is not valid YAML: ${value.errors[0].message}`, {
      place,
      mend: 'put it in quotes, for the shell and for YAML',
    });
  try {
    doc.setIn(path, value.contents);
  } catch {
    throw new LowrankError(`${path.slice(0, -1).join('.')} holds no keys`, { place, mend: 'set the key itself' });
  }
  return path;
}

/** The names of the keys that the schema has at this place. */
function keysAt(path: readonly PropertyKey[]): string[] {
  return Object.keys(path.length === 0 ? Recipe.shape : path[0] === 'datasets' || path[0] === 'test_datasets' ? dataset.shape : {});
}

/** What is wrong with a recipe; `placeOf` says where a value stands, or with `atKey` its key, `has` whether there is one. */
function explain(issue: z.core.$ZodIssue, placeOf: (path: Path, atKey: boolean) => string, has: (path: Path) => boolean): LowrankError {
  const unknown = issue.code === 'unrecognized_keys' ? issue.keys[0] : undefined;
  const path = [...issue.path, ...(unknown === undefined ? [] : [unknown])].map((part) => (typeof part === 'number' ? part : String(part)));
  const place = placeOf(path, unknown !== undefined);
  const key = path.join('.');
  if (unknown !== undefined) {
    const near = (issue.path.length === 0 ? keyOfOthers(unknown) : undefined) ?? nearest(unknown, keysAt(issue.path));
    return new LowrankError(`unknown key "${key}"`, {
      place,
      mend: near ? `write "${near}", or remove it` : 'remove it; `lowrank train --help` lists the keys',
    });
  }
  const missing = issue.code === 'invalid_type' && !has(path);
  const help = path.length > 0 ? descriptionAt(path) : undefined;
  // On the command line the place is the key already.
  const problem = missing ? `${key} is missing` : place.endsWith(`: ${key}`) ? issue.message : `${key}: ${issue.message}`;
  return new LowrankError(problem, { place, expected: help, mend: `correct ${key}` });
}

/** What a key means: of a key of a data set its own help, and else that of the recipe's key. */
function descriptionAt(path: Path): string | undefined {
  const [first, , key] = path;
  const inner = first === 'datasets' || first === 'test_datasets' ? dataset.shape[key as keyof typeof dataset.shape] : undefined;
  return (inner ?? Recipe.shape[first as keyof typeof Recipe.shape])?.description;
}

/** Where a key or its value stands in the text; for what is missing, the object that should hold it. */
function offsetOf(doc: Document, path: Path, atKey: boolean): number {
  const nodeAt = (n: number) => (n === 0 ? doc.contents : doc.getIn(path.slice(0, n), true)) as Node | undefined;
  const holder = atKey ? nodeAt(path.length - 1) : undefined;
  const key = isMap(holder) ? holder.items.find((pair) => isScalar(pair.key) && pair.key.value === path.at(-1))?.key : undefined;
  if (isScalar(key) && key.range) return key.range[0];
  for (let n = path.length; n > 0; n--) {
    const range = nodeAt(n)?.range;
    if (range) return range[0];
  }
  return 0;
}

/** The adapter's configuration that a recipe asks for. */
export function loraConfigOf(recipe: Recipe): LoraConfig {
  const { lora_target_modules: modules, lora_target_parameters: parameters } = recipe;
  const linear = recipe.lora_target_linear ?? (modules === undefined && parameters === undefined);
  return LoraConfig.parse({
    ...Object.fromEntries(Object.entries(loraKeys).map(([key, name]) => [name, recipe[key as keyof Recipe]])),
    lora_alpha: recipe.lora_alpha ?? 2 * recipe.lora_r,
    target_modules: linear ? 'all-linear' : modules,
    init_lora_weights: recipe.peft_init_lora_weights,
  });
}

/** The keys of a recipe that an adapter from lora_model_dir brings itself, with PEFT's names. */
export const loraKeys = {
  lora_r: 'r',
  lora_alpha: 'lora_alpha',
  lora_dropout: 'lora_dropout',
  lora_target_modules: 'target_modules',
  lora_target_parameters: 'target_parameters',
  lora_exclude_modules: 'exclude_modules',
  lora_modules_to_save: 'modules_to_save',
  lora_rank_pattern: 'rank_pattern',
  lora_alpha_pattern: 'alpha_pattern',
  lora_bias: 'bias',
  peft_use_rslora: 'use_rslora',
  peft_layers_to_transform: 'layers_to_transform',
} as const satisfies Partial<Record<keyof Recipe, keyof LoraConfig>>;

/** When the base is streamed; it needs gradient_checkpointing. */
export function streamingOf(recipe: Recipe): { mode: true | 'auto'; limit?: number } | undefined {
  const { stream_base: mode, adapter, gradient_checkpointing, memory_limit } = recipe;
  const refuse = (problem: string, mend: string) => {
    throw new LowrankError(problem, { place: 'recipe', mend });
  };
  if (mode === true && adapter === 'full')
    refuse('adapter is full, and stream_base true', 'remove stream_base: trained weights are in memory');
  if (mode === true && !gradient_checkpointing) refuse('stream_base needs gradient_checkpointing', 'write gradient_checkpointing: true');
  if (mode === false || adapter === 'full' || !gradient_checkpointing) return undefined;
  return { mode, limit: memory_limit && memory_limit * 1e9 };
}

/** How the model is put on the device. */
export function loadOptionsOf(recipe: Recipe): Omit<LoadOptions, 'onProgress'> {
  const { adapter, load_in_8bit, bnb_config_kwargs: kwargs } = recipe;
  const { load_in_4bit = adapter === 'qlora' } = recipe;
  const precision = recipe.bf16 === false ? 'fp32' : 'bf16';
  const refuse = (problem: string, mend: string) => {
    throw new LowrankError(problem, { place: 'recipe', mend });
  };
  if (load_in_4bit && load_in_8bit) refuse('load_in_4bit and load_in_8bit are both true', 'remove one of them');
  if (adapter === 'qlora' && !load_in_4bit)
    refuse('adapter is qlora, and load_in_4bit false', 'remove load_in_4bit, or write adapter: lora');
  if (adapter === 'full' && (load_in_4bit || load_in_8bit))
    refuse('adapter is full, and the weights are to be quantised', 'remove load_in_4bit and load_in_8bit, or write adapter: qlora');
  if (adapter === 'full') return { precision, trainable: true };
  if (load_in_8bit) return { precision, quantization: { ...standardQuantization, kind: 'int8' } };
  if (!load_in_4bit) return { precision };
  const { bnb_4bit_quant_type: kind, bnb_4bit_use_double_quant: double } = kwargs;
  return { precision, quantization: { ...standardQuantization, kind, double } };
}

/** A key with its default and what it means, for help texts. */
export interface KeyHelp {
  key: string;
  standard: string;
  help: string;
}

/** The keys of a recipe. */
export const recipeKeys = (): KeyHelp[] => keysOf(Recipe.shape);

/** The keys of an entry of `datasets` and `test_datasets`. */
export const datasetKeys = (): KeyHelp[] => keysOf(dataset.shape);

function keysOf(shape: Record<string, z.ZodType>): KeyHelp[] {
  return Object.entries(shape).map(([key, schema]) => {
    const standard = schema instanceof z.ZodDefault ? JSON.stringify(schema.def.defaultValue) : '';
    return { key, standard, help: schema.description ?? '' };
  });
}
