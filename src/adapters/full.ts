import type { Tensor } from '../core/tensor.js';
import { bytesAs, type PlainType } from '../io/model-folder.js';
import type { TensorToWrite } from '../io/safetensors.js';
import type { CausalLM } from '../nn/model.js';
import { LowrankError } from '../util/errors.js';
import type { ParameterCount, Tuner } from './tuner.js';

/**
 * Full fine-tuning: every weight of a model, biases and norms too, is trained in place, in f32. The model must have been loaded with
 * `trainable`. A tied head is the embedding's matrix and has one gradient, the sum of both uses.
 */
export class FullTuner implements Tuner {
  readonly model: CausalLM;
  private readonly weights = new Map<string, Tensor>();

  /** Throws where a weight is not f32 in memory that may be written. */
  constructor(model: CausalLM) {
    this.model = model;
    const seen = new Set<Tensor>();
    const add = (name: string, tensor: Tensor) => {
      if (seen.has(tensor)) return;
      if (tensor.dtype !== 'f32' || tensor.buffer.readOnly) throw notTrainable(name, tensor);
      seen.add(tensor);
      this.weights.set(name, tensor);
    };
    for (const [path, module] of model.modules) {
      add(`${path}.weight`, module.weight);
      if (module.bias) add(`${path}.bias`, module.bias);
    }
    for (const tensor of seen) tensor.requiresGrad = true;
  }

  parameters(): Map<string, Tensor> {
    return new Map(this.weights);
  }

  count(): ParameterCount {
    const all = [...this.weights.values()].reduce((sum, tensor) => sum + tensor.size, 0);
    return { trainable: all, all, percent: 100 };
  }

  /** The weights as a checkpoint's tensors, computed one at a time as they are written. */
  tensors(dtype: PlainType): TensorToWrite[] {
    return [...this.weights].map(([name, tensor]) => ({
      name,
      dtype: dtype.toUpperCase(),
      shape: tensor.shape,
      data: () => bytesAs(tensor, dtype),
    }));
  }

  withBase(): never {
    throw new LowrankError('full fine-tuning changes the base itself', {
      place: 'a pass of the base model',
      mend: 'train an adapter: adapter: lora, or qlora',
    });
  }

  /** The weights keep what they learned; they belong to the loaded model. */
  dispose(): void {
    for (const tensor of this.weights.values()) tensor.requiresGrad = false;
  }
}

function notTrainable(name: string, tensor: Tensor): LowrankError {
  return new LowrankError(tensor.dtype === 'f32' ? 'stands in a mapped file' : `is ${tensor.dtype}`, {
    place: `adapter full: tensor "${name}"`,
    expected: 'f32 in memory of its own, to be trained in place',
    mend: 'load the model with loadModel(…, { trainable: true })',
  });
}
