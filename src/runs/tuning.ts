import type { Adapter } from '../adapters/adapter.js';
import { openAdapter, saveAdapter } from '../adapters/folder.js';
import { FullTuner } from '../adapters/full.js';
import { createAdapter } from '../adapters/registry.js';
import type { Tuner } from '../adapters/tuner.js';
import type { StoredTensor } from '../io/checkpoint.js';
import type { Folder } from '../io/folder.js';
import { asStored, inFileOrder, mainType, type PlainType, writeContract, writeModel, writeTokenizer } from '../io/model-folder.js';
import type { ModelSource, ModelTexts } from '../io/model-source.js';
import { readSafetensors } from '../io/safetensors.js';
import { fillTensors } from '../io/tensors.js';
import { withModelNames } from '../models/names.js';
import type { CausalLM } from '../nn/model.js';
import { LowrankError } from '../util/errors.js';
import { adapterCard, type CardFigures, fullCard } from './model-card.js';
import { loraConfigOf, type Recipe } from './recipe.js';

/** What a run trains, and how it is kept. */
export interface Tuning {
  readonly tuner: Tuner;
  readonly kind: 'adapter' | 'model';
  /** What stands beside its weights. */
  readonly texts: ModelTexts;
  /** In f32, so that `openTuning` goes on bit for bit. */
  saveCheckpoint(folder: Folder): Promise<void>;
  /** Replaces the result of an earlier run by this one, whole or not at all; `more` writes what stands beside it. */
  saveResult(folder: Folder, more: (inner: Folder) => Promise<void>): Promise<void>;
  /** README.md of the result. */
  card(figures: CardFigures): string;
}

export interface TuningInputs {
  recipe: Recipe;
  source: ModelSource;
  model: CausalLM;
  /** What stands beside the weights of a result and, as far as the contract goes, of a checkpoint. */
  texts: ModelTexts;
}

/** A new adapter, or one that `start` holds (lora_model_dir); or the whole model. */
export async function beginTuning(inputs: TuningInputs, start?: Folder): Promise<Tuning> {
  const { recipe, model } = inputs;
  if (recipe.adapter === 'full') {
    if (start)
      throw new LowrankError('lora_model_dir is for adapters', {
        place: start.path,
        mend: 'name the folder as base_model, or set adapter: lora',
      });
    return new FullTuning(inputs, new FullTuner(model));
  }
  const adapter = start ? (await openAdapter(start, model)).adapter : await createAdapter(model, loraConfigOf(recipe), recipe.seed);
  return new AdapterTuning(inputs, adapter);
}

/** What a checkpoint holds. */
export async function openTuning(inputs: TuningInputs, folder: Folder): Promise<Tuning> {
  if (inputs.recipe.adapter !== 'full') return new AdapterTuning(inputs, (await openAdapter(folder, inputs.model)).adapter);
  const tuner = new FullTuner(inputs.model);
  try {
    const checkpoint = await readSafetensors(await folder.open(weightsFile));
    const named = withModelNames({ ...inputs.source, checkpoint });
    await fillTensors(tuner.parameters(), named.checkpoint, `${folder.path}/${weightsFile}`).finally(() => checkpoint.close());
    return new FullTuning(inputs, tuner);
  } catch (error) {
    tuner.dispose();
    throw error;
  }
}

class AdapterTuning implements Tuning {
  readonly kind = 'adapter';
  readonly tuner: Adapter;
  readonly texts: ModelTexts;
  private readonly inputs: TuningInputs;

  constructor(inputs: TuningInputs, tuner: Adapter) {
    this.texts = inputs.texts;
    this.inputs = inputs;
    this.tuner = tuner;
  }

  async saveCheckpoint(folder: Folder): Promise<void> {
    const { source } = this.inputs;
    // By its path a local base is found from everywhere, and never taken for a model of the hub.
    await saveAdapter(folder, this.tuner, source.path ?? source.name);
    await writeContract(folder, this.texts);
  }

  saveResult(folder: Folder, more: (inner: Folder) => Promise<void>): Promise<void> {
    return folder.publish(
      'adapter_config.json',
      /^(adapter_model\.safetensors|chat_template\.jinja|additional_chat_templates)$/,
      async (inner) => {
        await this.saveCheckpoint(inner);
        await writeTokenizer(inner, this.texts);
        await more(inner);
      },
    );
  }

  card(figures: CardFigures): string {
    return adapterCard(this.inputs.recipe, this.tuner, figures);
  }
}

const weightsFile = 'model.safetensors';

/** Results that would be read instead of a model, or with it. */
const otherResults = new RegExp(
  [
    'adapter_(model\\.safetensors|config\\.json)',
    'model(-\\d{5}-of-\\d{5})?\\.safetensors(\\.index\\.json)?',
    'chat_template\\.jinja',
    'additional_chat_templates',
  ]
    .map((name) => `^${name}$`)
    .join('|'),
);

class FullTuning implements Tuning {
  readonly kind = 'model';
  readonly tuner: FullTuner;
  readonly texts: ModelTexts;
  private readonly inputs: TuningInputs;

  constructor(inputs: TuningInputs, tuner: FullTuner) {
    this.texts = inputs.texts;
    this.inputs = inputs;
    this.tuner = tuner;
  }

  saveCheckpoint(folder: Folder): Promise<void> {
    return this.write(folder, 'f32', [], Number.POSITIVE_INFINITY);
  }

  saveResult(folder: Folder, more: (inner: Folder) => Promise<void>): Promise<void> {
    return folder.publish('config.json', otherResults, async (inner) => {
      const { tensors, others = [] } = this.inputs.source.checkpoint;
      await this.write(inner, mainType(tensors.values()), others);
      await more(inner);
    });
  }

  private write(folder: Folder, dtype: PlainType, others: readonly StoredTensor[], maxShardBytes?: number): Promise<void> {
    const { tensors: stored } = this.inputs.source.checkpoint;
    const trained = this.tuner.tensors(dtype).map((tensor) => inFileOrder(tensor, stored.get(tensor.name)));
    const model = { tensors: [...trained, ...others.map(asStored)], config: this.tuner.model.config };
    return writeModel(folder, model, this.texts, { maxShardBytes });
  }

  card(figures: CardFigures): string {
    return fullCard(this.inputs.recipe, this.tuner, figures);
  }
}
