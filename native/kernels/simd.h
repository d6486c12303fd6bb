// Functions of one f32 that loops of every instruction set vectorise: branch-free, no tables, no calls.
// Relative errors against the exact value are at most 3e-7.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>

namespace lowrank::LOWRANK_ISA {

// eˣ; 0 below the normal numbers (x < −87.336), ∞ above 88.72, NaN stays. With n = ⌊x/ln 2⌉ and r = x − n·ln 2 (in two parts, so that r
// is exact), eˣ = 2ⁿ·eʳ; eʳ = 1 + r + r²·q(r), q a minimax polynomial on |r| ≤ ln 2 / 2.
inline float exp_f32(float x) {
  const float shifted = x * 1.44269504f + 12582912.f;  // 1.5·2²³ rounds to an integer, which then stands in the low bits
  const float n = shifted - 12582912.f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float q = 0.0013814538f;
  q = q * r + 0.008368745f;
  q = q * r + 0.04166839f;
  q = q * r + 0.16666521f;
  q = q * r + 0.49999994f;
  const float e = (q * r) * r + r + 1.f;
  const uint32_t bits = std::bit_cast<uint32_t>(e) + (std::bit_cast<uint32_t>(shifted) << 23);
  float y = std::bit_cast<float>(bits);
  y = x < -87.33654f ? 0.f : y;
  return x > 88.7228f ? std::numeric_limits<float>::infinity() : y;
}

// tanh x: below 0.625 an odd polynomial of Cephes, so that small numbers keep their relative accuracy, and 1 − 2 / (e²ˣ + 1) from there on.
inline float tanh_f32(float x) {
  const float magnitude = x < 0.f ? -x : x, z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z + -5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z + -3.33332819422e-1f;
  const float near = x + x * (z * p), far = 1.f - 2.f / (exp_f32(2.f * magnitude) + 1.f);
  return magnitude < 0.625f ? near : x < 0.f ? -far : far;
}

inline float sigmoid_f32(float x) { return 1.f / (1.f + exp_f32(-x)); }

// The standard normal distribution: density φ(x) and distribution function Φ(x) = ½(1 + erf(x/√2)), the latter as φ-like tail
// e^(−x²/2)·g(1/(1 + 0.35·|x|)), g a minimax polynomial, so that it keeps its relative accuracy where 1 + erf would cancel.
struct Normal {
  float density, distribution;
};
inline Normal normal_f32(float x) {
  const float magnitude = x < 0.f ? -x : x;
  const float t = 1.f / (1.f + 0.35f * magnitude);
  float g = -0.029145284f;
  g = g * t + 0.14396851f;
  g = g * t + -0.25570753f;
  g = g * t + 0.15916632f;
  g = g * t + -0.023104291f;
  g = g * t + 0.105505586f;
  g = g * t + 0.1198335f;
  g = g * t + 0.13986178f;
  g = g * t + 0.1396214f;
  const float e = exp_f32(-0.5f * x * x);
  const float tail = e * (g * t);
  return {e * 0.39894228f, x < 0.f ? tail : 1.f - tail};
}

}  // namespace lowrank::LOWRANK_ISA
