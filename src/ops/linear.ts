import type { Backend } from '../core/backend.js';
import type { DType } from '../core/dtype.js';
import { gradientLike, record } from '../core/tape.js';
import { empty, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';

/** The key of one dropout mask: the same key gives the same mask, on every backend. */
export interface DropoutKey {
  /** Probability of a zero, in [0, 1). */
  p: number;
  seed: number;
  stream: number;
  step: number;
}

/** A low-rank update of a linear layer (Hu et al. 2021, §4.1): y += scale · dropout(x)·Aᵀ·Bᵀ (+ scale · bias). */
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
  /** The dtype of y; x's where absent. */
  dtype?: DType;
}

/**
 * x [T,in], weight [out,in], bias [out] → y [T,out].
 *
 * y = x·Wᵀ + b + s·h·Bᵀ, h = x̃·Aᵀ, x̃ = dropout(x)
 * dx = dy·W + dropout(dh·A), dh = s·dy·B;  dW = dyᵀ·x;  db = Σ_t dy;  dA = dhᵀ·x̃;  dB = s·dyᵀ·h
 */
export function linear(x: Tensor, weight: Tensor, { bias, lora, dtype = x.dtype }: LinearOptions = {}): Tensor {
  const backend = x.backend;
  checkShape('linear', 'x', x, [-1, weight.shape[1]]);
  const y = empty(backend, [x.shape[0], weight.shape[0]], dtype);
  matmulNT(backend, x, weight, y);
  if (bias) backend.run('addBias', { x: y, bias }, { out: y }, {});
  const h = lora && loraForward(backend, x, lora, y);
  const frozenInput = !lora && !weight.requiresGrad;
  return record(
    'linear',
    [x, weight, bias, lora?.A, lora?.B],
    y,
    [frozenInput ? undefined : x, weight, bias, h, lora?.A, lora?.B],
    (dy) => {
      const dx = x.requiresGrad ? empty(backend, x.shape, x.dtype) : undefined;
      if (dx) matmulNN(backend, dy, weight, dx);
      const { dA, dB } = lora && h ? loraBackward(backend, x, lora, h, dy, dx) : {};
      const dweight = weight.requiresGrad ? gradientLike(weight) : undefined;
      if (dweight) matmulTN(backend, dy, x, dweight);
      const dbias = bias?.requiresGrad ? gradientLike(bias) : undefined;
      if (dbias) {
        backend.run('fill', {}, { out: dbias }, { value: 0 });
        backend.run('columnSum', { x: dy }, { out: dbias }, {});
      }
      return [dx, dweight, dbias, dA, dB];
    },
  );
}

/** Adds s·h·Bᵀ to y and returns h [T,r]. */
function loraForward(backend: Backend, x: Tensor, { A, B, scale, dropout }: LoraBranch, y: Tensor): Tensor {
  checkShape('linear', 'lora A', A, [-1, x.shape[1]]);
  checkShape('linear', 'lora B', B, [y.shape[1], A.shape[0]]);
  const h = empty(backend, [x.shape[0], A.shape[0]], x.dtype);
  matmulNT(backend, dropped(backend, x, dropout), A, h);
  matmulNT(backend, h, B, y, scale, 1);
  return h;
}

/** Adds the branch's share to dx, where dx is asked for, and returns dA and dB. */
function loraBackward(backend: Backend, x: Tensor, { A, B, scale, dropout }: LoraBranch, h: Tensor, dy: Tensor, dx: Tensor | undefined) {
  const dh = empty(backend, h.shape, h.dtype);
  matmulNN(backend, dy, B, dh, scale);
  const dB = gradientLike(B);
  matmulTN(backend, dy, h, dB, scale);
  const dA = gradientLike(A);
  matmulTN(backend, dh, dropped(backend, x, dropout), dA);
  if (dx && dropout) {
    const masked = empty(backend, x.shape, x.dtype);
    matmulNN(backend, dh, A, masked);
    backend.run('dropout', { x: masked }, { out: masked }, { ...dropout });
    backend.run('accumulate', { x: masked }, { out: dx }, { factor: 1 });
  } else if (dx) {
    matmulNN(backend, dh, A, dx, 1, 1);
  }
  return { dA, dB };
}

function dropped(backend: Backend, x: Tensor, dropout: DropoutKey | undefined): Tensor {
  if (!dropout) return x;
  const out = empty(backend, x.shape, x.dtype);
  backend.run('dropout', { x }, { out }, { ...dropout });
  return out;
}

/** out [M,N] = alpha · a [M,K] · b [N,K]ᵀ (+ out) */
export function matmulNT(backend: Backend, a: Tensor, b: Tensor, out: Tensor, alpha = 1, accumulate: 0 | 1 = 0): void {
  backend.run('matmul', { a, b }, { out }, { transposeA: 0, transposeB: 1, alpha, accumulate });
}

/** out [M,N] = alpha · a [M,K] · b [K,N] (+ out) */
export function matmulNN(backend: Backend, a: Tensor, b: Tensor, out: Tensor, alpha = 1, accumulate: 0 | 1 = 0): void {
  backend.run('matmul', { a, b }, { out }, { transposeA: 0, transposeB: 0, alpha, accumulate });
}

/** out [M,N] = alpha · a [K,M]ᵀ · b [K,N] (+ out) */
export function matmulTN(backend: Backend, a: Tensor, b: Tensor, out: Tensor, alpha = 1, accumulate: 0 | 1 = 0): void {
  backend.run('matmul', { a, b }, { out }, { transposeA: 1, transposeB: 0, alpha, accumulate });
}
