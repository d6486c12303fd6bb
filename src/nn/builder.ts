import { sameShape, type Tensor } from '../core/tensor.js';
import { LowrankError } from '../util/errors.js';
import { Embedding, LayerNorm, Linear, type Module, RMSNorm, ShortConv } from './layers.js';

/** The tensors of a checkpoint by their Hugging Face names, already on the device. */
export interface Weights {
  /** The checkpoint's name for messages. */
  readonly name: string;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/**
 * Builds a model's modules from a checkpoint and keeps them by path. Every tensor must be used, each with the shape that config.json says.
 */
export class Builder {
  readonly modules = new Map<string, Module>();
  /** As CausalLM has them. */
  readonly stacks = new Map<string, string[][]>();
  readonly aliases = new Map<string, string>();
  private readonly weights: Weights;
  private readonly used = new Set<string>();

  constructor(weights: Weights) {
    this.weights = weights;
  }

  /** The checkpoint's name for messages. */
  get name(): string {
    return this.weights.name;
  }

  has(name: string): boolean {
    return this.weights.tensors.has(name);
  }

  /** The tensor of that name, which must have this shape. */
  take(name: string, shape: readonly number[]): Tensor {
    const tensor = this.weights.tensors.get(name);
    if (!tensor) {
      throw new LowrankError('is missing', {
        place: `${this.name}: tensor "${name}"`,
        expected: `[${shape.join(', ')}] as config.json says`,
        mend: 'use a checkpoint that holds the whole model, and the config.json that belongs to it',
      });
    }
    if (!sameShape(tensor.shape, shape)) {
      throw new LowrankError(`has shape [${tensor.shape.join(', ')}]`, {
        place: `${this.name}: tensor "${name}"`,
        expected: `[${shape.join(', ')}] as config.json says`,
        mend: 'use the config.json that belongs to these weights',
      });
    }
    this.used.add(name);
    return tensor;
  }

  linear(path: string, inputs: number, outputs: number, bias = false): Linear {
    const weight = this.take(`${path}.weight`, [outputs, inputs]);
    return this.add(path, new Linear(weight, bias ? this.take(`${path}.bias`, [outputs]) : undefined));
  }

  /** A linear layer of one of several experts. */
  expert(path: string, inputs: number, outputs: number): Linear {
    return this.add(path, new Linear(this.take(`${path}.weight`, [outputs, inputs]), undefined, true));
  }

  /** The output projection: a matrix of its own, or where it is tied the embedding's. */
  head(path: string, { weight }: Embedding, tied: boolean, bias = false): Linear {
    const [vocabulary, width] = weight.shape;
    return tied ? this.add(path, new Linear(weight)) : this.linear(path, width, vocabulary, bias);
  }

  embedding(path: string, vocabulary: number, width: number): Embedding {
    return this.add(path, new Embedding(this.take(`${path}.weight`, [vocabulary, width])));
  }

  rmsNorm(path: string, width: number, eps: number, offset?: number): RMSNorm {
    return this.add(path, new RMSNorm(this.take(`${path}.weight`, [width]), eps, offset));
  }

  layerNorm(path: string, width: number, eps: number, bias = true): LayerNorm {
    const weight = this.take(`${path}.weight`, [width]);
    return this.add(path, new LayerNorm(weight, bias ? this.take(`${path}.bias`, [width]) : undefined, eps));
  }

  shortConv(path: string, columns: number, taps: number): ShortConv {
    return this.add(path, new ShortConv(this.take(`${path}.weight`, [columns, 1, taps])));
  }

  private add<M extends Module>(path: string, module: M): M {
    this.modules.set(path, module);
    return module;
  }

  /** Throws where the checkpoint holds tensors that no module took; `ignored` names are those without meaning for this model. */
  finish(ignored: (name: string) => boolean): void {
    const left = [...this.weights.tensors.keys()].filter((name) => !this.used.has(name) && !ignored(name));
    if (left.length === 0) return;
    throw new LowrankError(`${left.length} tensors belong to no module of this model, "${left[0]}" the first`, {
      place: this.weights.name,
      mend: 'check that config.json belongs to these weights and that the architecture is the right one',
    });
  }
}
