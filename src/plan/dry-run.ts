import type { AdapterConfig } from '../adapters/adapter.js';
import { FullTuner } from '../adapters/full.js';
import { allocateAdapter } from '../adapters/registry.js';
import { refuseUnmatched } from '../adapters/targets.js';
import type { MemoryCategory, MemoryUse } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import { empty, Storage, Tensor } from '../core/tensor.js';
import { buildModel, layersOf } from '../models/load.js';
import { isQuantizable, type QuantizationConfig } from '../models/quantize.js';
import { Builder } from '../nn/builder.js';
import { LayerStream } from '../nn/layer-stream.js';
import { Linear } from '../nn/layers.js';
import { createOptimizer, type OptimizerName } from '../optim/optimizer.js';
import { fourBitConstantsSize } from '../quant/four-bit.js';
import type { LabelledTokens } from '../train/batch.js';
import { trainStep } from '../train/step.js';
import type { JsonObject } from '../util/json.js';
import { DryBackend } from './dry-backend.js';

/** A training step whose memory and work are wanted. */
export interface StepToPlan {
  /** What errors call the model. */
  name: string;
  /** config.json of an architecture that can be built. */
  config: JsonObject;
  precision: 'bf16' | 'fp32';
  /** The adapter, or none where every weight is trained. */
  lora?: AdapterConfig;
  quantization?: QuantizationConfig;
  /** The frozen matrices are read from their file as they are used. */
  stream: boolean;
  /** The frozen weights stand in a file as they are used, and are mapped. */
  mapped: boolean;
  optimizer: OptimizerName;
  /** Bytes above which paged states leave the memory. */
  memoryLimit?: number;
  gradient_checkpointing: boolean | 'offload_disk';
  /** The micro-batches of one step. */
  batches: readonly LabelledTokens[];
  threads: number;
}

export interface PlannedStep {
  /** As the backend's `memory()` counts it. */
  memory: MemoryUse;
  /** The most bytes resident at one time, besides what the process holds before it loads a model. */
  resident: number;
  /** Floating-point operations of the products. */
  operations: number;
  /** How many ops are queued. */
  ops: number;
  trainable: number;
  all: number;
}

/** What decides in which form weights are held. */
type WeightForms = Pick<StepToPlan, 'precision' | 'lora' | 'quantization' | 'stream' | 'mapped'>;

/** Weights of the right shapes on a device that only counts, in the form that `loadModel` gives them. */
class ShapeBuilder extends Builder {
  readonly taken = new Map<string, Tensor>();
  private readonly backend: DryBackend;
  private readonly step: WeightForms;

  constructor(backend: DryBackend, step: WeightForms, name: string) {
    super({ name, tensors: new Map() });
    this.backend = backend;
    this.step = step;
  }

  override take(name: string, shape: readonly number[]): Tensor {
    const tensor = this.weight({ name, shape });
    this.taken.set(name, tensor);
    return tensor;
  }

  private weight({ name, shape }: { name: string; shape: readonly number[] }): Tensor {
    const { lora, precision, quantization } = this.step;
    if (!lora || shape.length === 1) return empty(this.backend, shape, 'f32', 'weights');
    if (quantization && isQuantizable({ name, shape })) return this.quantized(shape, quantization);
    return this.place(shape, precision === 'bf16' ? 'bf16' : 'f32', 'weights', true);
  }

  private quantized(shape: readonly number[], { kind, blockSize, double }: QuantizationConfig): Tensor {
    if (kind === 'int8') {
      const weight = this.place(shape, 'i8', 'weights', this.step.stream);
      weight.quantization = { absmax: this.place([shape[0]], 'f32', 'constants', this.step.stream) };
      return weight;
    }
    const blocks = Math.ceil((shape[0] * shape[1]) / blockSize);
    const weight = this.place(shape, 'u4', 'weights', this.step.stream);
    const absmax = this.place([blocks], double ? 'u8' : 'f32', 'constants', this.step.stream);
    const constants = empty(this.backend, [fourBitConstantsSize(double ? blocks : undefined)], 'f32', 'constants');
    weight.quantization = { absmax, constants };
    return weight;
  }

  /** In its file where it may be, or else in memory. */
  private place(shape: readonly number[], dtype: DType, category: MemoryCategory, inFile: boolean): Tensor {
    if (!inFile || !this.step.mapped) return empty(this.backend, shape, dtype, category);
    const size = shape.reduce((product, n) => product * n, 1);
    const bytes = Math.ceil(size * { f32: 4, bf16: 2, f16: 2, i32: 4, u8: 1, i8: 1, u4: 0.5 }[dtype]);
    return new Tensor(new Storage(this.backend, this.backend.mapFile('', 0, bytes, category)), 0, dtype, shape);
  }

  override finish(): void {}
}

/** The number of parameters of the model that a config.json describes, by building it. */
export function countParameters(config: JsonObject, name: string): number {
  return countOfToken(config, name).all;
}

/** The same, and how many of them compute for a token: all but those of the experts that it does not go to. */
export function countOfToken(config: JsonObject, name: string): { all: number; active: number } {
  const backend = new DryBackend(1);
  const builder = new ShapeBuilder(backend, { precision: 'bf16', mapped: false, stream: false }, name);
  const { modules, mixtures } = buildModel({ name, config }, builder, backend, 'bf16');
  const sizeOf = (tensors: Iterable<Tensor>) => [...tensors].reduce((sum, { size }) => sum + size, 0);
  const all = sizeOf(builder.taken.values());
  const ofExperts = [...modules.values()].flatMap((module) => (module instanceof Linear && module.ofExpert ? [module.weight] : []));
  return { all, active: mixtures ? all - sizeOf(ofExperts) * (1 - mixtures.perToken / mixtures.experts) : all };
}

/** Throws where an adapter's configuration does not fit the model that a config.json describes, without reading a weight. */
export function checkAdapter({ name, config }: { name: string; config: JsonObject }, lora: AdapterConfig): void {
  const backend = new DryBackend(1);
  const builder = new ShapeBuilder(backend, { lora, precision: 'bf16', mapped: false, stream: false }, name);
  const model = buildModel({ name, config }, builder, backend, 'bf16');
  refuseUnmatched(model, lora);
  allocateAdapter(model, lora);
}

/** Runs two steps, the second one with all optimizer states in place, on a device that only counts. */
export async function dryRun(step: StepToPlan): Promise<PlannedStep> {
  const { name, config, lora, optimizer, memoryLimit: limit, gradient_checkpointing, batches, stream, threads, precision } = step;
  const backend = new DryBackend(threads);
  const builder = new ShapeBuilder(backend, step, name);
  const model = buildModel({ name, config }, builder, backend, precision === 'bf16' ? 'bf16' : 'f32');
  if (stream) model.stream = new LayerStream(backend, layersOf(builder.taken));
  if (lora) refuseUnmatched(model, lora);
  const tuner = lora ? allocateAdapter(model, lora) : new FullTuner(model);
  const settings = { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0, paging: { folder: '', limit } };
  const updates = createOptimizer(optimizer, tuner.parameters(), settings);
  backend.resetPeak();
  const options = { learning_rate: 1e-4, max_grad_norm: 1, gradient_checkpointing, offloadFolder: '', seed: 1 };
  await trainStep(tuner, updates, batches, options);
  const { operations, ops } = backend;
  await trainStep(tuner, updates, batches, options);
  const { trainable, all } = tuner.count();
  return { memory: backend.memory(), resident: backend.peakResident, operations, ops, trainable, all };
}

/** As many micro-batches of a step as its memory depends on: two are like all that follow, since gradients are added up in place. */
export function likeMany(batch: LabelledTokens, gradient_accumulation_steps: number): LabelledTokens[] {
  return gradient_accumulation_steps > 1 ? [batch, batch] : [batch];
}

/** `examples` sequences of `length` tokens, all supervised. */
export function fullBatch(examples: number, length: number): LabelledTokens {
  const tokens = examples * length;
  return {
    inputIds: new Int32Array(tokens),
    labels: new Int32Array(tokens),
    positions: Int32Array.from({ length: tokens }, (_, i) => i % length),
    segments: Int32Array.from({ length: 4 * examples }, (_, i) => (Math.floor(i / 4) + (i % 2)) * length),
  };
}
