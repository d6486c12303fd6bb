import type { Backend } from '../core/backend.js';
import { encodeQuantized, type QuantizedBytes } from '../io/bitsandbytes.js';
import type { StoredTensor } from '../io/checkpoint.js';
import { asStored } from '../io/model-folder.js';
import type { ModelSource } from '../io/model-source.js';
import { byteLengthOf, type TensorToWrite } from '../io/safetensors.js';
import { nestedBlockSize } from '../quant/four-bit.js';
import { LowrankError } from '../util/errors.js';
import { familyOf } from './families.js';
import { WeightLoader } from './load.js';
import { isQuantizable, partsOf, type QuantizationConfig } from './quantize.js';

/** A quantised model in bitsandbytes' format: its tensors, each made on the device when its turn comes, and what config.json says. */
export interface QuantizedModel {
  readonly tensors: TensorToWrite[];
  readonly config: Readonly<Record<string, unknown>>;
  readonly quantizationConfig: Readonly<Record<string, unknown>>;
  /** Elements and bytes of the matrices that are quantised, with all that belongs to them. */
  readonly quantized: { elements: number; bytes: number };
  dispose(): void;
}

/**
 * A model to be written with its layers' matrices quantised, one tensor at a time; of a multimodal model those of its text part. `backend`
 * makes the codes. Throws a LowrankError where
 * the source is quantised already.
 */
export function quantizeModel(source: ModelSource, backend: Backend, quantization: QuantizationConfig): QuantizedModel {
  const stored = [...source.checkpoint.tensors.values()];
  const already = stored.find(({ quantized }) => quantized);
  if (already) {
    throw new LowrankError(`tensor "${already.name}" is ${already.dtype}: the model is quantised already`, {
      place: source.name,
      mend: 'give the model in 16 bits',
    });
  }
  const loader = new WeightLoader(backend, { precision: 'bf16', quantization });
  const quantized = { elements: 0, bytes: 0 };
  const tensors = stored.flatMap((tensor): TensorToWrite[] => {
    if (!isQuantizable(tensor)) return [asStored(tensor)];
    const { name, shape } = tensor;
    const parts = encodeQuantized({ name, shape, ...quantization, bytes: () => quantizedBytes(loader, tensor) }, nestedBlockSize);
    quantized.elements += shape[0] * shape[1];
    for (const part of parts) quantized.bytes += byteLengthOf(part.dtype, part.shape);
    return parts;
  });
  tensors.push(...(source.checkpoint.others ?? []).map(asStored));
  const family = familyOf(source.config, source.name);
  const dispose = () => {
    loader.finish();
    loader.dispose();
  };
  return {
    tensors,
    config: { architectures: [family.architecture], ...source.config },
    quantizationConfig: configOf(quantization, ['lm_head', ...(family.otherParts ?? [])]),
    quantized,
    dispose,
  };
}

async function quantizedBytes(loader: WeightLoader, stored: StoredTensor): Promise<QuantizedBytes> {
  const weight = await loader.quantize(stored);
  try {
    const { absmax, constants } = weight.quantization ?? {};
    const [codes, scales] = [await weight.read(), (await absmax?.read()) ?? new Uint8Array()];
    return { codes, absmax: scales, constants: (await constants?.toFloat32()) ?? new Float32Array() };
  } finally {
    for (const part of partsOf(weight)) part.dispose();
  }
}

/** `quantization_config` as transformers' BitsAndBytesConfig writes it; `kept` are the modules that keep their numbers. */
function configOf({ kind, double }: QuantizationConfig, kept: readonly string[]): Record<string, unknown> {
  const fourBit = kind !== 'int8';
  return {
    quant_method: 'bitsandbytes',
    _load_in_4bit: fourBit,
    _load_in_8bit: !fourBit,
    load_in_4bit: fourBit,
    load_in_8bit: !fourBit,
    bnb_4bit_compute_dtype: 'bfloat16',
    bnb_4bit_quant_storage: 'uint8',
    bnb_4bit_quant_type: fourBit ? kind : 'fp4',
    bnb_4bit_use_double_quant: fourBit && double,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: kept,
  };
}
