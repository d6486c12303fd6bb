import type { Adapter } from '../adapters/adapter.js';
import type { Tuner } from '../adapters/tuner.js';
import { counted } from '../util/format.js';
import type { Recipe } from './recipe.js';

/** What a run measured. */
export interface CardFigures {
  steps: number;
  /** What the recipe asked for; a run that was stopped took fewer. */
  total_steps: number;
  /** Of the last step. */
  loss?: number;
  evalLoss?: number;
}

/** README.md of an adapter, with the metadata that the hub reads. */
export function adapterCard(recipe: Recipe, adapter: Adapter, figures: CardFigures): string {
  const { trainable, percent } = adapter.count();
  const { title } = adapter.method;
  return `---
base_model: ${recipe.base_model}
library_name: peft
pipeline_tag: text-generation
tags:
- ${title.toLowerCase()}
- lowrank
---

# ${title} adapter for ${recipe.base_model}

${adapter.method.describe(adapter.config)}: ${trainable.toLocaleString('en')} trained parameters (${percent.toFixed(2)} %).
${history(recipe, figures)}

    from peft import AutoPeftModelForCausalLM
    model = AutoPeftModelForCausalLM.from_pretrained("<this folder>")
`;
}

/** README.md of a model that was trained as a whole. */
export function fullCard(recipe: Recipe, tuner: Tuner, figures: CardFigures): string {
  return `---
base_model: ${recipe.base_model}
library_name: transformers
pipeline_tag: text-generation
tags:
- lowrank
---

# ${recipe.base_model}, fine-tuned

All ${tuner.count().trainable.toLocaleString('en')} parameters were trained.
${history(recipe, figures)}

    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("<this folder>")
`;
}

function history({ num_epochs, max_steps, learning_rate }: Recipe, { steps, total_steps, loss, evalLoss }: CardFigures): string {
  const figure = (value: number | undefined) => value?.toFixed(4) ?? '–';
  const whole = max_steps === undefined ? counted(num_epochs, 'epoch') : counted(max_steps, 'step');
  const length = steps < total_steps ? `${steps} of the ${total_steps} steps${max_steps === undefined ? ` of ${whole}` : ''}` : whole;
  return `Trained with lowrank for ${length} at a peak learning rate of ${learning_rate}.
Last training loss ${figure(loss)}, held-out loss ${figure(evalLoss)}. The recipe is in training_args.yaml.`;
}
