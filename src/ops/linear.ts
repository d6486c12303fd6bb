import type { Backend, MemoryCategory } from '../core/backend.js';
import { fuses } from '../core/capabilities.js';
import type { DType } from '../core/dtype.js';
import { addGradient, type Gradients, gradientLike, record } from '../core/tape.js';
import { empty, overwritable, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';

/** The key of one dropout mask: the same key gives the same mask, on every backend. */
export interface DropoutKey {
  /** Probability of a zero, in [0, 1). */
  p: number;
  seed: number;
  stream: number;
  step: number;
}

/** A low-rank update of a linear layer (Hu et al. 2021, §4.1): y += scale · dropout(x)·Aᵀ·Bᵀ. */
export interface LoraBranch {
  /** [r, in] f32 */
  A: Tensor;
  /** [out, r] f32 */
  B: Tensor;
  scale: number;
  dropout?: DropoutKey;
}

export interface LinearOptions {
  bias?: Tensor;
  lora?: LoraBranch;
  /** Added to y, [T,out] in y's dtype: the residual connection. */
  residual?: Tensor;
  /** y, where an earlier pass has kept it: then only what the backward pass needs besides is computed. */
  kept?: Tensor;
  /** The dtype of y; x's where absent. */
  dtype?: DType;
  /** What y's memory is counted as; `activations` where absent. */
  category?: MemoryCategory;
}

/**
 * x [T,in], weight [out,in], bias [out], residual R [T,out] → y [T,out].
 *
 * y = x·Wᵀ + b + h·Bᵀ + R, h = s·x̃·Aᵀ, x̃ = dropout(x)
 * dx = dy·W + dropout(dh·A), dh = s·dy·B;  dW = dyᵀ·x;  db = Σ_t dy;  dA = dhᵀ·x̃;  dB = dyᵀ·h;  dR = dy
 */
export function linear(x: Tensor, weight: Tensor, options: LinearOptions = {}): Tensor {
  const { bias, lora, residual, kept, dtype = x.dtype, category } = options;
  const backend = x.backend;
  checkShape('linear', 'x', x, [-1, weight.shape[1]]);
  if (residual) checkShape('linear', 'residual', residual, [x.shape[0], weight.shape[0]]);
  const y = kept ?? empty(backend, [x.shape[0], weight.shape[0]], dtype, category);
  const mask = lora?.dropout && dropoutMask(x, lora.dropout);
  const h = lora && loraForward(x, weight, lora, mask, residual, kept ? undefined : y);
  if (!kept) {
    if (!lora) matmulNT(backend, x, weight, y);
    if (!lora && residual) backend.run('add', { a: y, b: residual }, { out: y }, {});
    if (bias) backend.run('addBias', { x: y, bias }, { out: y }, {});
  }
  const frozenInput = !lora && !weight.requiresGrad;
  const saved = [frozenInput ? undefined : x, weight, bias, h, lora?.A, lora?.B, mask];
  const vjp = (dy: Tensor, gradients: Gradients, gradientSoFar: Tensor | undefined) => {
    const dx = x.requiresGrad ? (gradientSoFar ? overwritable(gradientSoFar) : empty(backend, x.shape, x.dtype)) : undefined;
    const { dA, dB } = lora && h ? loraBackward(x, weight, lora, mask, h, dy, dx, gradientSoFar) : {};
    if (!lora && dx) addProductNN(dy, weight, dx, gradientSoFar);
    const dweight = weight.requiresGrad ? weightGradient(dy, x, weight, gradients) : undefined;
    const columnSum = (out: Tensor) => backend.run('columnSum', { x: dy }, { out }, {});
    const dbias = bias?.requiresGrad ? addGradient(bias, gradients, columnSum) : undefined;
    return [dx, dweight, dbias, dA, dB, dy];
  };
  return record('linear', [x, weight, bias, lora?.A, lora?.B, residual], y, saved, vjp, true);
}

/** dW = dyᵀ·x, or nothing where it was added to the sum so far. */
function weightGradient(dy: Tensor, x: Tensor, weight: Tensor, gradients: Gradients): Tensor | undefined {
  const sum = gradients.own(weight);
  const dweight = sum ?? gradientLike(weight);
  matmulTN(x.backend, dy, x, dweight, 1, sum !== undefined);
  return sum ? undefined : dweight;
}

/** out = a·b + addend, which may share out's memory. */
function addProductNN(a: Tensor, b: Tensor, out: Tensor, addend: Tensor | undefined): void {
  if (addend && addend.storage !== out.storage) a.backend.run('cast', { x: addend }, { out }, {});
  matmulNN(a.backend, a, b, out, 1, addend !== undefined);
}

/** What of x [T,in] a dropout keeps: one bit per element, and the factor 1/(1 − p) of what is kept. */
function dropoutMask(x: Tensor, { p, ...key }: DropoutKey): Tensor {
  const mask = empty(x.backend, [x.shape[0], Math.ceil(x.shape[1] / 32)], 'i32');
  x.backend.run('dropoutMask', {}, { mask }, { p, ...key });
  return mask;
}

const maskScaleOf = ({ dropout }: LoraBranch) => (dropout ? 1 / (1 - dropout.p) : 1);

/** Returns h [T,r], and computes y = x·Wᵀ + h·Bᵀ (+ residual) where it is asked for. */
function loraForward(
  x: Tensor,
  weight: Tensor,
  lora: LoraBranch,
  mask: Tensor | undefined,
  residual: Tensor | undefined,
  y: Tensor | undefined,
): Tensor {
  const { A, B, scale } = lora;
  checkShape('linear', 'lora A', A, [-1, weight.shape[1]]);
  checkShape('linear', 'lora B', B, [weight.shape[0], A.shape[0]]);
  const backend = x.backend;
  const h = empty(backend, [x.shape[0], A.shape[0]], x.dtype);
  if (fuses(backend, 'loraLinear')) {
    backend.run(
      'loraLinear',
      { x, weight, A, B, mask, residual, ...weight.quantization },
      { y, h },
      { scale, maskScale: maskScaleOf(lora) },
    );
    return h;
  }
  matmulNT(backend, dropped(x, lora, mask), A, h, scale);
  if (y) {
    matmulNT(backend, x, weight, y);
    matmulNT(backend, h, B, y, 1, true);
    if (residual) backend.run('add', { a: y, b: residual }, { out: y }, {});
  }
  return h;
}

/** Computes dx (+ gradientSoFar) where it is asked for, and returns dA and dB. */
function loraBackward(
  x: Tensor,
  weight: Tensor,
  lora: LoraBranch,
  mask: Tensor | undefined,
  h: Tensor,
  dy: Tensor,
  dx: Tensor | undefined,
  gradientSoFar: Tensor | undefined,
) {
  const { A, B, scale } = lora;
  const backend = x.backend;
  const dh = empty(backend, h.shape, h.dtype);
  if (dx && fuses(backend, 'loraLinearBackward')) {
    const operands = { dy, weight, A, B, mask, residual: gradientSoFar, ...weight.quantization };
    backend.run('loraLinearBackward', operands, { dx, dh }, { scale, maskScale: maskScaleOf(lora) });
  } else {
    matmulNN(backend, dy, B, dh, scale);
    if (dx) {
      addProductNN(dy, weight, dx, gradientSoFar);
      const update = mask ? empty(backend, x.shape, x.dtype) : dx;
      matmulNN(backend, dh, A, update, 1, !mask);
      if (mask) backend.run('dropout', { x: update, mask }, { out: update }, { maskScale: maskScaleOf(lora) });
      if (mask) backend.run('accumulate', { x: update }, { out: dx }, { factor: 1 });
    }
  }
  const [dA, dB] = [gradientLike(A), gradientLike(B)];
  if (fuses(backend, 'loraGradients')) {
    backend.run('loraGradients', { x, h, dy, dh, mask }, { dA, dB }, { maskScale: maskScaleOf(lora) });
  } else {
    matmulTN(backend, dh, dropped(x, lora, mask), dA);
    matmulTN(backend, dy, h, dB);
  }
  return { dA, dB };
}

function dropped(x: Tensor, lora: LoraBranch, mask: Tensor | undefined): Tensor {
  if (!mask) return x;
  const out = empty(x.backend, x.shape, x.dtype);
  x.backend.run('dropout', { x, mask }, { out }, { maskScale: maskScaleOf(lora) });
  return out;
}

/** out [M,N] = alpha · a [M,K] · b [N,K]ᵀ (+ out); b may be quantised. */
export function matmulNT(backend: Backend, a: Tensor, b: Tensor, out: Tensor, alpha = 1, accumulate = false): void {
  backend.run('matmul', { a, b, ...b.quantization }, { out }, { transposeA: false, transposeB: true, alpha, accumulate });
}

/** out [M,N] = alpha · a [M,K] · b [K,N] (+ out); b may be quantised. */
export function matmulNN(backend: Backend, a: Tensor, b: Tensor, out: Tensor, alpha = 1, accumulate = false): void {
  backend.run('matmul', { a, b, ...b.quantization }, { out }, { transposeA: false, transposeB: false, alpha, accumulate });
}

/** out [M,N] = alpha · a [K,M]ᵀ · b [K,N] (+ out) */
export function matmulTN(backend: Backend, a: Tensor, b: Tensor, out: Tensor, alpha = 1, accumulate = false): void {
  backend.run('matmul', { a, b }, { out }, { transposeA: true, transposeB: false, alpha, accumulate });
}
