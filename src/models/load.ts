import type { Backend, MappedRange, MemoryCategory } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import { unscoped } from '../core/scope.js';
import { empty, fromArray, Storage, Tensor } from '../core/tensor.js';
import type { QuantizedParts, ReadType, StoredTensor } from '../io/checkpoint.js';
import type { ModelSource } from '../io/model-source.js';
import { Builder } from '../nn/builder.js';
import { LayerStream } from '../nn/layer-stream.js';
import type { CausalLM } from '../nn/model.js';
import { LowrankError } from '../util/errors.js';
import { isObject } from '../util/json.js';
import { familyOf } from './families.js';
import type { Family } from './family.js';
import { isQuantizable, partsOf, type QuantizationConfig, Quantizer } from './quantize.js';

export interface LoadOptions {
  /** `bf16`: weights and activations bf16, sums f32; `fp32`: everything f32. */
  precision: 'bf16' | 'fp32';
  /** Every weight in f32 and in memory of its own, for full fine-tuning; activations and products keep the precision. */
  trainable?: boolean;
  /** Quantises the layers' matrices as they are read. Those of a checkpoint that is quantised already stay as they are. */
  quantization?: QuantizationConfig;
  /** Keeps mapped weights of layers in their files, a few layers at a time in memory. */
  stream?: boolean;
  onProgress?: (loaded: number, total: number) => void;
}

/** A model and the memory of its weights. */
export interface LoadedModel {
  model: CausalLM;
  dispose(): void;
}

/**
 * Puts a checkpoint's weights on a device and builds its model. Matrices get the precision's dtype and vectors f32, or matrices are
 * quantised, one at a time; what is stored in just that form is mapped from its file and used in place where the device can.
 */
export async function loadModel(source: ModelSource, backend: Backend, options: LoadOptions): Promise<LoadedModel> {
  const { precision, onProgress } = options;
  checkModel(source);
  const dtype = precision === 'bf16' ? 'bf16' : 'f32';
  const loader = new WeightLoader(backend, options);
  try {
    const tensors = new Map<string, Tensor>();
    const stored = source.checkpoint.tensors;
    for (const [name, tensor] of stored) {
      tensors.set(name, await loader.load(tensor));
      onProgress?.(tensors.size, stored.size);
    }
    const build = new Builder({ name: source.name, tensors });
    const model = buildModel(source, build, backend, dtype);
    if (options.stream) model.stream = new LayerStream(backend, layersOf(tensors));
    const dispose = () => {
      model.dispose();
      loader.dispose();
    };
    return { model, dispose };
  } catch (error) {
    loader.dispose();
    throw error;
  } finally {
    loader.finish();
  }
}

/** A model of the family that config.json names, from what `build` gives it. */
export function buildModel(source: Pick<ModelSource, 'name' | 'config'>, build: Builder, backend: Backend, dtype: DType): CausalLM {
  return checkModel(source).build(source.config, build, backend, dtype);
}

/** The family of a model that can be loaded. */
function checkModel({ config, name }: Pick<ModelSource, 'name' | 'config'>): Family {
  const method = isObject(config.quantization_config) ? config.quantization_config.quant_method : undefined;
  if (method !== undefined && method !== 'bitsandbytes') {
    throw new LowrankError(`weights quantised by ${JSON.stringify(method)} cannot be read`, {
      place: `${name}: config.json`,
      expected: 'bitsandbytes, or weights that are not quantised',
      mend: 'choose the 16-bit model: load_in_4bit quantises it',
    });
  }
  return familyOf(config, name);
}

/** The mapped tensors of each numbered layer. */
export function layersOf(tensors: ReadonlyMap<string, Tensor>): MappedRange[][] {
  const layers: MappedRange[][] = [];
  for (const [name, tensor] of tensors) {
    const index = /\.(\d+)\./.exec(name)?.[1];
    if (index === undefined || !isQuantizable({ name, shape: tensor.shape })) continue;
    const ranges = (layers[Number(index)] ??= []);
    ranges.push(...partsOf(tensor).filter(({ buffer }) => buffer.readOnly));
  }
  return layers;
}

const storedNames: Readonly<Record<DType, string>> = { f32: 'F32', bf16: 'BF16', f16: 'F16', i32: 'I32', u8: 'U8', i8: 'I8', u4: 'U8' };
const alignments: Readonly<Record<DType, number>> = { f32: 4, bf16: 2, f16: 2, i32: 4, u8: 1, i8: 1, u4: 1 };

/**
 * Whether a tensor's stored bytes serve as this dtype where they lie: no conversion, aligned to their size, in a file that can be mapped.
 */
export function isUsableInPlace({ inPlace, dtype, offset, byteLength, file }: StoredTensor, wanted: DType): boolean {
  return inPlace && dtype === storedNames[wanted] && offset % alignments[wanted] === 0 && byteLength > 0 && file.path !== undefined;
}

/** Puts tensors of files on a device and owns their memory. */
export class WeightLoader {
  private readonly backend: Backend;
  private readonly dtype: 'f32' | 'bf16';
  private readonly trainable: boolean;
  private readonly quantizer?: Quantizer;
  private readonly owned: Storage[] = [];

  constructor(backend: Backend, { precision, trainable = false, quantization }: LoadOptions) {
    this.backend = backend;
    this.dtype = precision === 'bf16' ? 'bf16' : 'f32';
    this.trainable = trainable;
    this.quantizer = quantization && new Quantizer(backend, quantization);
  }

  async load(stored: StoredTensor): Promise<Tensor> {
    if (this.trainable) return this.own(await this.upload(stored, 'f32', 'weights'));
    if (stored.quantized) return this.loadQuantized(stored, stored.quantized);
    if (this.quantizer && isQuantizable(stored)) return this.own(await this.quantize(stored));
    const wanted = stored.shape.length > 1 ? this.dtype : 'f32';
    return this.own(this.map(stored, wanted, 'weights') ?? (await this.upload(stored, wanted, 'weights')));
  }

  /** The codes of a matrix, made from its stored numbers; the caller's. */
  async quantize(stored: StoredTensor): Promise<Tensor> {
    const { quantizer } = this;
    if (!quantizer) throw new LowrankError('the loader was made without a quantization');
    const types: ReadType[] = ['f32', 'bf16', 'f16'];
    const found = types.find((dtype) => storedNames[dtype] === stored.dtype);
    const x = (found && this.map(stored, found, 'workspace')) ?? (await this.upload(stored, found ?? 'bf16', 'workspace'));
    try {
      return await quantizer.quantize(x);
    } finally {
      x.dispose();
    }
  }

  private async loadQuantized({ shape }: StoredTensor, parts: QuantizedParts): Promise<Tensor> {
    const { codes, absmax, kind } = parts;
    const [rows] = shape;
    const scales = absmax.dtype === 'U8' ? 'u8' : 'f32';
    const weight = this.own(await this.place(codes, kind, 'weights', shape));
    const scale = this.own(await this.place(absmax, scales, 'constants', kind === 'i8' ? [rows] : absmax.shape));
    if (kind === 'i8') {
      weight.quantization = { absmax: scale };
      return weight;
    }
    const numbers = await parts.constants();
    const constants = this.own(unscoped(() => fromArray(this.backend, numbers, [numbers.length], 'f32', 'constants')));
    weight.quantization = { absmax: scale, constants };
    return weight;
  }

  /** The tensor inside its memory-mapped file, where it is usable there. */
  private map(stored: StoredTensor, dtype: DType, category: MemoryCategory, shape = stored.shape): Tensor | undefined {
    const { path } = stored.file;
    if (!this.backend.mapFile || !path || !isUsableInPlace(stored, dtype)) return undefined;
    const buffer = this.backend.mapFile(path, stored.offset, stored.byteLength, category);
    return new Tensor(new Storage(this.backend, buffer), 0, dtype, shape);
  }

  private async upload(stored: StoredTensor, dtype: ReadType, category: MemoryCategory): Promise<Tensor> {
    const tensor = unscoped(() => empty(this.backend, stored.shape, dtype, category));
    try {
      await stored.readInto(dtype, (offset, bytes) => this.backend.write(tensor.buffer, bytes, offset));
      return tensor;
    } catch (error) {
      tensor.dispose();
      throw error;
    }
  }

  /** The stored bytes as they are: mapped, or else copied. */
  private async place(stored: StoredTensor, dtype: DType, category: MemoryCategory, shape: readonly number[]): Promise<Tensor> {
    return this.map(stored, dtype, category, shape) ?? this.write(await stored.read(), shape, dtype, category);
  }

  private write(data: Uint8Array, shape: readonly number[], dtype: DType, category: MemoryCategory): Tensor {
    const tensor = unscoped(() => empty(this.backend, shape, dtype, category));
    tensor.write(data);
    return tensor;
  }

  private own(tensor: Tensor): Tensor {
    for (const { storage } of partsOf(tensor)) this.owned.push(storage);
    return tensor;
  }

  /** Lets go of what only loading needed. */
  finish(): void {
    this.quantizer?.dispose();
  }

  dispose(): void {
    for (const storage of this.owned.splice(0)) storage.release();
  }
}
