import { type OptimizerName, optimizers, smallestPaged } from '../optim/optimizer.js';
import { smallest8bit, stateBlock } from '../quant/dynamic-map.js';
import { bytesOf, type PlanInput, type WeightFormat } from './input.js';
import { countParameters, layerNorms, linearLayers, type Matrix, type ModelShape, sizeOf, sum } from './shape.js';

/** A trained tensor: [rows, columns], or a vector [rows]. */
export interface Trained {
  readonly rows: number;
  readonly columns?: number;
}

export const elementsOf = ({ rows, columns = 1 }: Trained) => rows * columns;

/** Elements that share a scale, and scales that share one in double quantisation (Dettmers et al. 2023, §3). */
const quantBlock = 64;
const scaleBlock = 256;

/**
 * Bytes of a stored matrix and of its quantisation constants: 4-bit formats have an f32 scale per 64 elements (4.5 bits an element in all), or
 * with double quantisation an 8-bit scale and an f32 for each 256 of those (4.127); int8 has an f32 scale per row.
 */
export function storedBytes(matrix: Matrix, format: WeightFormat): { weights: number; constants: number } {
  const size = sizeOf(matrix);
  const blocks = Math.ceil(size / quantBlock);
  switch (format) {
    case 'f32':
    case 'bf16':
      return { weights: size * bytesOf[format], constants: 0 };
    case 'nf4':
    case 'fp4':
      return { weights: Math.ceil(size / 2), constants: 4 * blocks };
    case 'nf4-double':
    case 'fp4-double':
      return { weights: Math.ceil(size / 2), constants: blocks + 4 * Math.ceil(blocks / scaleBlock) };
    case 'int8':
      return { weights: size, constants: 4 * matrix.outputs };
  }
}

/** The frozen or trained model itself. What is not a linear layer has the precision's dtype, vectors are f32. */
export function modelBytes(input: PlanInput): { weights: number; constants: number } {
  const { shape, weights, precision, method } = input;
  const { embedding, head, vectors } = countParameters(shape);
  const stored = linearLayers(shape).map((matrix) => storedBytes(matrix, weights));
  const rest = method === 'full' ? weights : precision === 'fp32' ? 'f32' : 'bf16';
  const restBytes = rest === 'f32' ? bytesOf.f32 : bytesOf.bf16;
  return {
    weights: sum(stored.map((bytes) => bytes.weights)) + (embedding + head) * restBytes + vectors * bytesOf.f32,
    constants: sum(stored.map(({ constants }) => constants)),
  };
}

const loraPair = ({ outputs, inputs }: Matrix, r: number): Trained[] => [
  { rows: r, columns: inputs },
  { rows: outputs, columns: r },
];

/** The tensors that a linear layer or the head trains: its adapter's, or its weight and bias. */
export function trainedOf(matrix: Matrix, input: PlanInput): Trained[] {
  const { method, ranks, saved } = input;
  const whole: Trained[] = [{ rows: matrix.outputs, columns: matrix.inputs }, ...(matrix.bias ? [{ rows: matrix.outputs }] : [])];
  if (method === 'full' || saved.includes(matrix.path)) return whole;
  const r = ranks[matrix.path];
  return r === undefined ? [] : loraPair(matrix, r);
}

/** Every trained tensor of the model, each once. */
export function trainedTensors(input: PlanInput): Trained[] {
  const { shape, method, saved } = input;
  const { C, L, embedding, head, tied } = shape;
  const whole = method === 'full';
  const matrices = linearLayers(shape).flatMap((matrix) => trainedOf(matrix, input));
  const embeddings = whole || saved.includes(embedding.path) ? [{ rows: embedding.outputs, columns: embedding.inputs }] : [];
  const heads = whole && tied ? [] : trainedOf(head, input);
  const norms = whole ? Array.from({ length: L }, () => normsOf(shape)).flat() : [];
  return [...matrices, ...embeddings, ...heads, ...norms, ...(whole ? [{ rows: C }] : [])];
}

function normsOf(shape: ModelShape): Trained[] {
  const { C, D, headNorms } = shape;
  const heads = headNorms ? [{ rows: D }, { rows: D }] : [];
  const wide = (layerNorms(shape) - sum(heads.map(elementsOf))) / C;
  return [...Array.from({ length: wide }, () => ({ rows: C })), ...heads];
}

/** Bytes of an optimizer's states, those of them that are paged, and the largest paged tensor. */
export function optimizerBytes(
  name: OptimizerName,
  tensors: readonly Trained[],
): { all: number; paged: number; largestPaged: number } {
  const choice = optimizers[name];
  const result = { all: 0, paged: 0, largestPaged: 0 };
  let maps = 0;
  for (const tensor of tensors) {
    for (const { elements, bytes } of statesOf(choice, tensor)) {
      result.all += bytes;
      if (!('paged' in choice) || elements < smallestPaged) continue;
      result.paged += bytes;
      result.largestPaged = Math.max(result.largestPaged, bytes);
    }
    if (choice.bits === 8 && elementsOf(tensor) >= smallest8bit) maps = choice.algorithm === 'adamw' ? 2 : 1;
  }
  // A map is 256 numbers and the codes of 65,536 bins.
  return { ...result, all: result.all + maps * (256 * 4 + 65_536) };
}

function statesOf({ algorithm, bits }: (typeof optimizers)[OptimizerName], tensor: Trained): { elements: number; bytes: number }[] {
  const elements = elementsOf(tensor);
  if (algorithm === 'sgd') return [];
  if (algorithm === 'adafactor') {
    const sizes = tensor.columns === undefined ? [elements] : [tensor.rows, tensor.columns];
    return sizes.map((n) => ({ elements: n, bytes: 4 * n }));
  }
  const moments = algorithm === 'adamw' ? 2 : 1;
  const blocks = Math.ceil(elements / stateBlock);
  const one =
    bits === 8 && elements >= smallest8bit
      ? [
          { elements, bytes: elements },
          { elements: blocks, bytes: 4 * blocks },
        ]
      : [{ elements, bytes: 4 * elements }];
  return Array.from({ length: moments }, () => one).flat();
}
