import type { Backend, DeviceBuffer } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import { unscoped } from '../core/scope.js';
import { empty, Storage, Tensor } from '../core/tensor.js';
import type { StoredTensor } from '../io/checkpoint.js';
import type { ModelSource } from '../io/model-source.js';
import { Builder } from '../nn/builder.js';
import type { Architecture, CausalLM } from '../nn/model.js';
import { LowrankError, nearest } from '../util/errors.js';
import { LlamaForCausalLM } from './llama.js';

/** Architectures by the model_type of config.json. */
const architectures: ReadonlyMap<string, Architecture> = new Map<string, Architecture>([
  ['llama', (config, build, backend, dtype) => new LlamaForCausalLM(config, build, backend, dtype)],
]);

export interface LoadOptions {
  /** `bf16`: weights and activations bf16, sums f32; `fp32`: everything f32. */
  precision: 'bf16' | 'fp32';
  /** Every weight in f32 and in memory of its own, for full fine-tuning; activations and products keep the precision. */
  trainable?: boolean;
  onProgress?: (loaded: number, total: number) => void;
}

/** A model and the memory of its weights. */
export interface LoadedModel {
  model: CausalLM;
  dispose(): void;
}

/**
 * Puts a checkpoint's weights on a device and builds its model. Matrices get the precision's dtype and vectors f32; what is stored in
 * just that form is mapped from its file and used in place where the device can.
 */
export async function loadModel(source: ModelSource, backend: Backend, options: LoadOptions): Promise<LoadedModel> {
  const { precision, trainable = false, onProgress } = options;
  const architecture = architectureOf(source);
  const dtype: 'f32' | 'bf16' = precision === 'bf16' ? 'bf16' : 'f32';
  const tensors = new Map<string, Tensor>();
  const mapped = new Map<string, DeviceBuffer>();
  const owned: Storage[] = [];
  const dispose = () => {
    for (const storage of owned) storage.release();
    for (const buffer of mapped.values()) backend.free(buffer);
  };
  try {
    const stored = [...source.checkpoint.tensors.values()];
    for (const [i, tensor] of stored.entries()) {
      const wanted = tensor.shape.length > 1 && !trainable ? dtype : 'f32';
      const inPlace = trainable ? undefined : mapTensor(backend, tensor, wanted, mapped);
      tensors.set(tensor.name, inPlace ?? (await upload(backend, tensor, wanted, owned)));
      onProgress?.(i + 1, stored.length);
    }
    const build = new Builder({ name: source.name, tensors });
    const model = architecture(source.config, build, backend, dtype);
    return {
      model,
      dispose: () => {
        model.dispose();
        dispose();
      },
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

function architectureOf({ config, name }: ModelSource): Architecture {
  const type = typeof config.model_type === 'string' ? config.model_type : '';
  const architecture = architectures.get(type);
  if (architecture) return architecture;
  const near = nearest(type, architectures.keys());
  throw new LowrankError(`model_type "${type}" is not supported`, {
    place: `${name}: config.json`,
    expected: [...architectures.keys()].join(', '),
    mend: near ? `if it is one, write "${near}"` : 'choose a model of one of these architectures',
  });
}

const storedNames: Partial<Record<DType, string>> = { f32: 'F32', bf16: 'BF16' };

/** The tensor inside its memory-mapped file, where its bytes are what is wanted and lie aligned to their size. */
function mapTensor(backend: Backend, stored: StoredTensor, dtype: DType, mapped: Map<string, DeviceBuffer>): Tensor | undefined {
  const { path } = stored.file;
  const alignment = dtype === 'f32' ? 4 : 2;
  if (!backend.mapFile || !path || !stored.inPlace || stored.dtype !== storedNames[dtype] || stored.offset % alignment !== 0)
    return undefined;
  let buffer = mapped.get(path);
  if (!buffer) {
    buffer = backend.mapFile(path);
    mapped.set(path, buffer);
  }
  return new Tensor(new Storage(backend, buffer), stored.offset, dtype, stored.shape);
}

async function upload(backend: Backend, stored: StoredTensor, dtype: 'f32' | 'bf16', owned: Storage[]): Promise<Tensor> {
  const data = await stored.readAs(dtype);
  const tensor = unscoped(() => empty(backend, stored.shape, dtype, 'weights'));
  owned.push(tensor.storage);
  tensor.write(data);
  return tensor;
}
