import type { Sequence } from '../data/prepare.js';
import { previewSequence } from '../data/preview.js';
import { dataWarnings } from '../data/warnings.js';
import { checkAdapter, countParameters } from '../plan/dry-run.js';
import { openDatasets, prepareData } from './data.js';
import { loraConfigOf, type RecipeInput } from './recipe.js';
import { nameOf, type RunContext, readRecipe } from './run.js';
import { findModel } from './session.js';
import { endWarnings, openRunCodec } from './template.js';

export interface PreviewPart {
  text: string;
  supervised: boolean;
}

/** The first examples of a recipe, as `previewRun` shows them. */
export interface Preview {
  /** `file:line` of each row, and the text of its sequences in runs of tokens that are supervised and that are not. */
  shown: { row: string; sequences: PreviewPart[][] }[];
}

/**
 * The first `count` examples as a run would train on them, with what is supervised in each. Prepares no others, writes nothing and asks
 * nothing of output_dir. `onEvent` hears warnings about these examples. Throws where the model cannot be built, or the adapter that the
 * recipe asks for does not fit it.
 */
export async function previewRun(recipe: RecipeInput | string, context: RunContext, count = 3): Promise<Preview> {
  const checked = readRecipe(recipe, context);
  const { host, near, onEvent } = context;
  const datasets = await openDatasets(host, checked.datasets, { name: nameOf(context), near });
  const source = await findModel(checked.base_model, context, { revision: checked.revision_of_model, near });
  try {
    if (checked.adapter === 'full' || checked.lora_model_dir !== undefined) countParameters(source.config, source.name);
    else checkAdapter(source, loraConfigOf(checked));
    const codec = await openRunCodec(source, checked, { host, near });
    const data = await prepareData({ ...checked, val_set_size: 0 }, codec, datasets, [], { atMost: count });
    const { train, statistics } = data;
    for (const { path, statistics: of } of statistics)
      for (const message of dataWarnings(of, path, checked.sequence_len)) onEvent?.({ type: 'warning', message });
    for (const message of await endWarnings(checked, source, codec, data)) onEvent?.({ type: 'warning', message });
    const partsOf = (sequence: Sequence) => {
      const parts: PreviewPart[] = [];
      previewSequence(codec.tokenizer, sequence, (text, supervised) => {
        parts.push({ text, supervised });
        return text;
      });
      return parts;
    };
    return { shown: train.map(({ row, sequences }) => ({ row, sequences: sequences.map(partsOf) })) };
  } finally {
    await source.checkpoint.close();
  }
}
