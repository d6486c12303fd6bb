import type { Recipe } from './recipe.js';

/**
 * What other systems call the keys of a recipe: transformers' and TRL's arguments, LLaMA-Factory, Unsloth, mlx-lm, torchtune, OpenAI. Names
 * that `nearest` finds by their spelling need not be here.
 */
const names: Readonly<Partial<Record<keyof Recipe, string>>> = {
  base_model: 'model model_name model_id model_path model_name_or_path base_model_name_or_path pretrained_model_name_or_path checkpoint',
  revision_of_model: 'revision model_revision',
  adapter: 'finetuning_type fine_tune_type method peft_type use_peft',
  load_in_4bit: 'quantization_bit quantization bits use_4bit',
  load_in_8bit: 'use_8bit',
  bf16: 'fp16 half precision dtype torch_dtype mixed_precision pure_bf16',
  lora_r: 'r rank lora_rank lora_dim',
  lora_alpha: 'alpha lora_scale',
  lora_dropout: 'dropout',
  lora_target_modules: 'target_modules lora_target lora_attn_modules lora_keys',
  lora_exclude_modules: 'exclude_modules',
  lora_modules_to_save: 'modules_to_save additional_target',
  lora_bias: 'bias',
  lora_model_dir: 'adapter_name_or_path resume_adapter_file adapter_file',
  peft_use_rslora: 'use_rslora rslora',
  peft_layers_to_transform: 'layers_to_transform num_layers lora_layers',
  lora_target_parameters: 'target_parameters',
  router_aux_loss_coef: 'moe_aux_loss_coef aux_loss_coef',
  datasets: 'data dataset dataset_name dataset_path data_path train_dataset train_data train_file training_file',
  test_datasets: 'eval_dataset test_dataset val_dataset validation_file validation_dataset valid_data',
  val_set_size: 'val_size eval_size test_size validation_split validation_split_percentage',
  shuffle_merged_datasets: 'shuffle',
  chat_template: 'template prompt_template chat_template_name',
  chat_template_jinja: 'chat_template_path chat_template_text',
  sequence_len: 'max_seq_length max_seq_len max_sequence_length max_length cutoff_len seq_len model_max_length block_size context_length',
  sample_packing: 'packing packed',
  group_by_length: 'length_column_name',
  micro_batch_size: 'batch_size per_device_train_batch_size per_device_batch_size train_batch_size device_train_microbatch_size bsz',
  gradient_accumulation_steps: 'gradient_accumulation grad_accum grad_accumulation_steps accumulate_grad_batches iters_to_accumulate',
  num_epochs: 'epoch epochs n_epochs num_train_epochs max_epochs train_epochs',
  max_steps: 'steps iters num_steps num_iters max_train_steps train_steps',
  learning_rate: 'lr',
  lr_scheduler: 'lr_scheduler_type scheduler lr_schedule scheduler_type',
  warmup_steps: 'warmup num_warmup_steps lr_warmup_steps',
  optimizer: 'optim optimizer_type',
  weight_decay: 'wd decay',
  max_grad_norm: 'clip_grad clip_grad_norm gradient_clip_val gradient_clipping max_norm',
  adam_beta1: 'beta1',
  adam_beta2: 'beta2',
  adam_epsilon: 'eps epsilon adam_eps',
  gradient_checkpointing: 'grad_checkpoint use_gradient_checkpointing activation_checkpointing enable_activation_checkpointing',
  output_dir: 'output out out_dir output_path save_dir adapter_path checkpoint_dir',
  logging_steps: 'log_every log_every_n_steps log_steps steps_per_report log_interval',
  save_steps: 'save_every save_interval checkpoint_every',
  save_total_limit: 'keep_checkpoints max_checkpoints',
  eval_steps: 'eval_every eval_interval steps_per_eval',
  seed: 'random_seed random_state manual_seed',
};

/** Each of them, and the key. */
export const otherNames: ReadonlyMap<string, string> = new Map(
  Object.entries(names).flatMap(([key, others]) => others.split(' ').map((other): [string, string] => [other, key])),
);

/** The key of a recipe that other systems call so, or undefined. */
export function keyOfOthers(name: string): string | undefined {
  return otherNames.get(name.toLowerCase().replaceAll('-', '_'));
}
