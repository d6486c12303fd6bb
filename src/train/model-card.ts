import type { LoraAdapter } from '../adapters/lora.js';
import type { Recipe } from './recipe.js';

/** README.md of an adapter, with the metadata that the hub reads. */
export function modelCard(recipe: Recipe, adapter: LoraAdapter, loss: number | undefined, evalLoss: number | undefined): string {
  const { trainable, percent } = adapter.count();
  const { r, lora_alpha, lora_dropout } = adapter.config;
  const figure = (value: number | undefined) => value?.toFixed(4) ?? '–';
  return `---
base_model: ${recipe.base_model}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
- lowrank
---

# LoRA adapter for ${recipe.base_model}

Rank ${r}, alpha ${lora_alpha}, dropout ${lora_dropout}: ${trainable.toLocaleString('en')} trained parameters (${percent.toFixed(2)} %).
Trained with lowrank for ${recipe.num_epochs} epoch${recipe.num_epochs === 1 ? '' : 's'} at a peak learning rate of ${recipe.learning_rate}.
Last training loss ${figure(loss)}, held-out loss ${figure(evalLoss)}. The recipe is in training_args.yaml.

    from peft import AutoPeftModelForCausalLM
    model = AutoPeftModelForCausalLM.from_pretrained("<this folder>")
`;
}
