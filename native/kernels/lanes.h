// Vectors of one instruction set: kLanes numbers, and how they come out of tensors and go back.
//
// With AVX-512 they are the processor's own. Everywhere else they are the compiler's vector types, of eight floats (AVX2) or four (SSE2,
// NEON), so that one source serves them all.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <bit>
#include <cstring>

#include "kernels.h"

namespace lowrank::LOWRANK_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif
// Whether there are 32 registers of vectors, or 16.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr bool kManyRegisters = true;
#else
inline constexpr bool kManyRegisters = false;
#endif

// Vectors that may stand for memory of any type and alignment, since GCC 12 would make a memcpy of so many bytes go over the stack.
typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t LaneBits __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Lanes lanes_at(const void* memory) { return *static_cast<const Lanes*>(memory); }
inline void put_lanes(void* memory, Lanes x) { *static_cast<Lanes*>(memory) = x; }

inline float* f32_at(const Tensor& t, int64_t begin) { return static_cast<float*>(t.data) + begin; }
inline uint16_t* half_at(const Tensor& t, int64_t begin) { return static_cast<uint16_t*>(t.data) + begin; }

#if defined(__AVX512F__)

// Says that the first n lanes count.
inline __mmask16 first(int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }

// Sixteen numbers rounded to bf16, to nearest even; NaN stays NaN.
inline __m256i round_lanes(__m512 x) {
#if defined(__AVX512BF16__)
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet));
#endif
}

// Sixteen numbers of an f32 or bf16 tensor; 0 in the lanes that the mask leaves out.
inline __m512 load_lanes(const Tensor& t, int64_t at, __mmask16 mask) {
  if (t.dtype == DType::f32) return _mm512_maskz_loadu_ps(mask, f32_at(t, at));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, half_at(t, at))), 16));
}

inline void store_lanes(const Tensor& t, int64_t at, __mmask16 mask, __m512 x) {
  if (t.dtype == DType::f32) _mm512_mask_storeu_ps(f32_at(t, at), mask, x);
  else _mm256_mask_storeu_epi16(half_at(t, at), mask, round_lanes(x));
}

// Numbers rounded to those that bf16 has.
inline Lanes round_floats(Lanes x) { return (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(round_lanes((__m512)x)), 16); }

inline float sum_of(Lanes x) { return _mm512_reduce_add_ps((__m512)x); }

inline constexpr float kLog2E = 1.44269504f;

// 2ˣ = 2ⁿ · 2ᶠ with n = ⌊x⌉: one instruction multiplies by 2ⁿ, and 2ᶠ is a minimax polynomial on |f| ≤ ½ with a relative error of 7.5e-8.
inline __m512 exp2_lanes(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, n);
  __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(0.0013276472f), f, _mm512_set1_ps(0.009675541f));
  for (const float c : {0.05550713f, 0.2402212f, 0.69314694f, 1.0000001f}) q = _mm512_fmadd_ps(q, f, _mm512_set1_ps(c));
  return _mm512_scalef_ps(q, n);
}

#else

typedef int32_t LaneInts __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint16_t LaneHalves __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

// A vector of lanes chosen from two, where those of b are numbered from kLanes on.
template <int... From>
inline Lanes shuffle(Lanes a, Lanes b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, From...);
#else
  return __builtin_shuffle(a, b, LaneInts{From...});
#endif
}

// Transposes kLanes × kLanes numbers.
inline void transpose(Lanes (&r)[kLanes]) {
  Lanes t[kLanes];
#if defined(__AVX2__)
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 2) {
    t[i] = shuffle<0, 8, 1, 9, 4, 12, 5, 13>(r[i], r[i + 1]);
    t[i + 1] = shuffle<2, 10, 3, 11, 6, 14, 7, 15>(r[i], r[i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = shuffle<0, 1, 8, 9, 4, 5, 12, 13>(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = shuffle<2, 3, 10, 11, 6, 7, 14, 15>(t[i + j], t[i + j + 2]);
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[i] = shuffle<0, 1, 2, 3, 8, 9, 10, 11>(r[i], r[i + 4]);
    t[i + 4] = shuffle<4, 5, 6, 7, 12, 13, 14, 15>(r[i], r[i + 4]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) r[i] = t[i];
#else
  for (int i = 0; i < 4; i += 2) {
    t[i] = shuffle<0, 4, 1, 5>(r[i], r[i + 1]);
    t[i + 1] = shuffle<2, 6, 3, 7>(r[i], r[i + 1]);
  }
  for (int j = 0; j < 2; j++) {
    r[2 * j] = shuffle<0, 1, 4, 5>(t[j], t[j + 2]);
    r[2 * j + 1] = shuffle<2, 3, 6, 7>(t[j], t[j + 2]);
  }
#endif
}

// Says that the first n lanes count.
inline int64_t first(int64_t n) { return n; }

// The numbers of the lanes whose bit is set, the lowest bit for the first lane; 0 in the other lanes.
inline Lanes keep(Lanes x, uint32_t bits) {
  LaneBits place;
  for (int i = 0; i < kLanes; i++) place[i] = 1u << i;
  return (Lanes)((LaneBits)x & (LaneBits)(((LaneBits{} + bits) & place) != 0));
}

inline Lanes widen(LaneHalves halves) { return (Lanes)(__builtin_convertvector(halves, LaneBits) << 16); }

// Numbers rounded to those that bf16 has, to nearest even, still as f32; NaN stays NaN.
inline Lanes round_lanes(Lanes x) {
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  return (Lanes)vshll_n_u16(vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)x)), 16);
#endif
  const LaneBits u = (LaneBits)x, rounded = u + 0x7fff + (u >> 16 & 1);
  const LaneBits quiet = u | 0x400000, nan = (LaneBits)(x != x);
  return (Lanes)(((rounded & ~nan) | (quiet & nan)) & 0xffff0000);
}

// Puts numbers into memory as bf16.
inline void narrow(Lanes x, void* memory) {
  *static_cast<LaneHalves*>(memory) = __builtin_convertvector((LaneBits)round_lanes(x) >> 16, LaneHalves);
}

// kLanes numbers of an f32 or bf16 tensor, of which n exist; the others are 0.
inline Lanes load_lanes(const Tensor& t, int64_t at, int64_t n) {
  if (t.dtype == DType::f32) {
    if (n >= kLanes) [[likely]] return lanes_at(f32_at(t, at));
    Lanes x{};
    if (n > 0) std::memcpy(&x, f32_at(t, at), static_cast<size_t>(n) * sizeof(float));
    return x;
  }
  if (n >= kLanes) [[likely]] return widen(*reinterpret_cast<const LaneHalves*>(half_at(t, at)));
  LaneHalves halves{};
  if (n > 0) std::memcpy(&halves, half_at(t, at), static_cast<size_t>(n) * sizeof(uint16_t));
  return widen(halves);
}

// Stores the first n numbers in an f32 or bf16 tensor.
inline void store_lanes(const Tensor& t, int64_t at, int64_t n, Lanes x) {
  if (t.dtype == DType::f32) {
    if (n >= kLanes) [[likely]] return put_lanes(f32_at(t, at), x);
    if (n > 0) std::memcpy(f32_at(t, at), &x, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  const LaneHalves halves = __builtin_convertvector((LaneBits)round_lanes(x) >> 16, LaneHalves);
  if (n >= kLanes) [[likely]] *reinterpret_cast<LaneHalves*>(half_at(t, at)) = halves;
  else if (n > 0) std::memcpy(half_at(t, at), &halves, static_cast<size_t>(n) * sizeof(uint16_t));
}

// Numbers rounded to those that bf16 has.
inline Lanes round_floats(Lanes x) { return round_lanes(x); }

inline float sum_of(Lanes x) {
#if defined(__AVX2__)
  x += shuffle<4, 5, 6, 7, 0, 1, 2, 3>(x, x);
  x += shuffle<2, 3, 0, 1, 6, 7, 4, 5>(x, x);
#else
  x += shuffle<2, 3, 0, 1>(x, x);
#endif
  return x[0] + x[1];
}

#endif

}  // namespace lowrank::LOWRANK_ISA
