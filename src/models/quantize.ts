import type { Backend } from '../core/backend.js';
import { requireOps } from '../core/capabilities.js';
import type { OpName } from '../core/ops.table.js';
import { unscoped } from '../core/scope.js';
import { empty, fromArray, type Tensor } from '../core/tensor.js';
import { binCodes, dynamicMap } from '../quant/dynamic-map.js';
import { type FourBitType, fourBitConstants, fourBitValues, meanAsTorch, type NestedScales, nestedBlockSize } from '../quant/four-bit.js';

/** How frozen matrices are quantised. */
export interface QuantizationConfig {
  /** 4 bits with the values of NF4 or FP4, or 8 bits by rows (LLM.int8()). */
  readonly kind: 'nf4' | 'fp4' | 'int8';
  /** Of 4 bits: elements that share a scale, a power of two from 32 to 4096. */
  readonly blockSize: number;
  /** Of 4 bits: quantise the scales as well (QLoRA, §3, double quantisation). */
  readonly double: boolean;
}

/** What QLoRA uses. */
export const standardQuantization: QuantizationConfig = { kind: 'nf4', blockSize: 64, double: true };

/** What an element takes in a file, with its share of the scales. */
export function bitsPerParameter({ kind, blockSize, double }: QuantizationConfig): number {
  if (kind === 'int8') return 8;
  return 4 + (double ? 8 + 32 / nestedBlockSize : 32) / blockSize;
}

/** Routers, whose choices among experts a rounded weight would change. */
const router = /\.gate\.weight$/;

/** The matrices that are quantised: those of the numbered layers. Embeddings, norms, routers and the head keep their 16 bits. */
export function isQuantizable({ name, shape }: { name: string; shape: readonly number[] }): boolean {
  return shape.length === 2 && /\.\d+\..+\.weight$/.test(name) && !router.test(name);
}

/** The ops that make codes of this kind. */
function opsOf({ kind, double }: QuantizationConfig): OpName[] {
  if (kind === 'int8') return ['quantizeRows'];
  return double ? ['quantize4bit', 'quantize8bit'] : ['quantize4bit'];
}

/** Quantises matrices on a device, bit for bit as bitsandbytes does on a processor. Making one throws where the device lacks the ops. */
export class Quantizer {
  private readonly backend: Backend;
  private readonly config: QuantizationConfig;
  private readonly own: { constants: Tensor; codes: Tensor };

  constructor(backend: Backend, config: QuantizationConfig) {
    const mend = 'quantise the model on the processor first, with `lowrank quantize --device cpu`, and use the result as the base';
    requireOps(backend, opsOf(config), `quantization ${config.kind}`, mend);
    this.backend = backend;
    this.config = config;
    const values = config.kind === 'int8' ? fourBitValues.nf4 : fourBitValues[config.kind];
    this.own = unscoped(() => {
      const codes = binCodes(dynamicMap(true));
      const table = empty(backend, [codes.length], 'u8', 'workspace');
      table.write(codes);
      return { constants: fromArray(backend, fourBitConstants(values, config.blockSize), undefined, 'f32', 'workspace'), codes: table };
    });
  }

  /** A matrix's codes, i8 or u4 of its shape, with their quantization; the caller's. Resolves when the device is done. */
  async quantize(x: Tensor): Promise<Tensor> {
    const made = new Set<Tensor>();
    const create: Create = (shape, dtype, category) => {
      const tensor = unscoped(() => empty(this.backend, shape, dtype, category));
      made.add(tensor);
      return tensor;
    };
    try {
      const codes = await (this.config.kind === 'int8' ? this.rows(x, create) : this.fourBit(x, this.config.kind, create));
      await this.backend.sync();
      for (const part of partsOf(codes)) made.delete(part);
      return codes;
    } finally {
      for (const tensor of made) tensor.dispose();
    }
  }

  private async rows(x: Tensor, create: Create): Promise<Tensor> {
    const [out, absmax] = [create(x.shape, 'i8', 'weights'), create([x.shape[0]], 'f32', 'constants')];
    // bitsandbytes takes f16, whatever the model has.
    const half = create(x.shape, 'f16', 'workspace');
    this.backend.run('cast', { x }, { out: half }, {});
    this.backend.run('quantizeRows', { x: half }, { out, absmax }, {});
    out.quantization = { absmax };
    return out;
  }

  private async fourBit(x: Tensor, kind: FourBitType, create: Create): Promise<Tensor> {
    const { blockSize, double } = this.config;
    const blocks = Math.ceil(x.size / blockSize);
    const out = create(x.shape, 'u4', 'weights');
    let absmax = create([blocks], 'f32', double ? 'workspace' : 'constants');
    this.backend.run('quantize4bit', { x, constants: this.own.constants }, { out, absmax }, {});
    const nested = double ? await this.nest(absmax, create) : undefined;
    const numbers = fourBitConstants(fourBitValues[kind], blockSize, nested?.scales);
    absmax = nested?.absmax ?? absmax;
    const constants = create([numbers.length], 'f32', 'constants');
    constants.write(new Uint8Array(numbers.buffer));
    out.quantization = { absmax, constants };
    return out;
  }

  /** Quantises scales f32. */
  private async nest(scales: Tensor, create: Create): Promise<{ absmax: Tensor; scales: NestedScales }> {
    const offset = meanAsTorch(await scales.toFloat32());
    const absmax = create(scales.shape, 'u8', 'constants');
    const nested = create([Math.ceil(scales.size / nestedBlockSize)], 'f32', 'workspace');
    const outputs = { out: absmax, absmax: nested };
    this.backend.run('quantize8bit', { x: scales, codes: this.own.codes }, outputs, { blockSize: nestedBlockSize, offset });
    return { absmax, scales: { offset, values: dynamicMap(true), absmax: await nested.toFloat32() } };
  }

  dispose(): void {
    for (const tensor of Object.values(this.own)) tensor.dispose();
  }
}

type Create = (
  shape: readonly number[],
  dtype: 'u4' | 'i8' | 'u8' | 'f32' | 'f16',
  category: 'weights' | 'constants' | 'workspace',
) => Tensor;

/** The tensors of a matrix that may be quantised. */
export function partsOf(weight: Tensor): Tensor[] {
  return [weight, ...Object.values(weight.quantization ?? {})];
}
