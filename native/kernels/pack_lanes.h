// Packing panels with the vectors of one instruction set. Numbers are read the way they lie, along K or across the lanes, and are
// transposed where the panel has them the other way.
#pragma once
#include <algorithm>
#include <array>

#include "panels.h"

namespace lowrank::LOWRANK_ISA {
#if defined(__AVX512F__)
// Transposes 16 × 16 units.
inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; j++) {
      t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
      t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
    }
  for (int j = 0; j < 8; j++) {
    r[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
    r[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
  }
}

// Sixteen numbers of a tensor as bf16, rounded where the tensor is f32.
inline __m256i load_halves(const Tensor& t, int64_t at, __mmask16 mask) {
  if (t.dtype == DType::bf16) return _mm256_maskz_loadu_epi16(mask, half_at(t, at));
  return round_lanes(_mm512_maskz_loadu_ps(mask, f32_at(t, at)));
}

// Sixteen units along K of lane l, of which `left` elements of K exist.
template <bool Masked>
inline __m512i load_units(const Factor& f, int64_t l, int64_t k, int64_t left, Form form) {
  const Tensor& t = *f.tensor;
  const int64_t at = f.element(l, k);
  const uint32_t bits = f.bits<Masked>(l, k);
  if (f.codes) {
    if (form == Form::pairs) return f.codes->halves(at, left);
    const __m512 numbers = f.codes->lanes(at, left);
    return form == Form::exact ? _mm512_castps_si512(numbers) : _mm512_slli_epi32(_mm512_cvtepu16_epi32(round_lanes(numbers)), 16);
  }
  if (form == Form::pairs) {
    const __mmask32 mask = (left >= 32 ? 0xffffffffu : (1u << left) - 1) & bits;
    if (t.dtype == DType::bf16) return _mm512_maskz_loadu_epi16(mask, half_at(t, at));
    const __m256i low = load_halves(t, at, static_cast<__mmask16>(mask));
    const __m256i high = left > 16 ? load_halves(t, at + 16, static_cast<__mmask16>(mask >> 16)) : _mm256_setzero_si256();
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  const auto mask = static_cast<__mmask16>(first(left) & bits);
  if (form == Form::exact) return _mm512_castps_si512(load_lanes(t, at, mask));
  return _mm512_slli_epi32(_mm512_cvtepu16_epi32(load_halves(t, at, mask)), 16);
}

// Sixteen lanes of one step from lane l on, of which `left` elements of K exist.
template <bool Masked>
inline __m512i load_step(const Factor& f, int64_t l, int64_t k, int64_t left, __mmask16 lanes, Form form) {
  const Tensor& t = *f.tensor;
  const auto mask = [&](int64_t step) { return static_cast<__mmask16>(lanes & f.bits<Masked>(l, step)); };
  const auto numbers = [&](int64_t step) {
    if (f.codes) return f.codes->lanes(f.element(l, step), std::popcount(lanes));
    return load_lanes(t, f.element(l, step), mask(step));
  };
  const auto halves = [&](int64_t step) {
    return _mm512_cvtepu16_epi32(f.codes ? round_lanes(numbers(step)) : load_halves(t, f.element(l, step), mask(step)));
  };
  if (form == Form::exact) return _mm512_castps_si512(numbers(k));
  const __m512i low = halves(k);
  if (form == Form::rounded) return _mm512_slli_epi32(low, 16);
  if (left < 2) return low;
  return _mm512_or_si512(low, _mm512_slli_epi32(halves(k + 1), 16));
}

// Two rows of 32 halves, shuffled into each other to make 32 pairs.
struct Pairs {
  __m512i first, last;
};
inline Pairs interleave(__m512i low, __m512i high) {
  alignas(64) static constexpr auto order = [] {
    std::array<uint16_t, 64> o{};
    for (int i = 0; i < 32; i++) o[2 * i] = static_cast<uint16_t>(i), o[2 * i + 1] = static_cast<uint16_t>(32 + i);
    return o;
  }();
  return {_mm512_permutex2var_epi16(low, _mm512_load_si512(order.data()), high),
          _mm512_permutex2var_epi16(low, _mm512_load_si512(order.data() + 32), high)};
}

// Packs 32 neighbouring lanes of bf16 in pairs.
template <bool Masked>
inline void pack_pairs(const Factor& f, int64_t k, uint32_t* __restrict panel) {
  const auto row = [&](int64_t step) {
    if (f.codes) return f.codes->halves(f.element(0, step), 32);
    return _mm512_maskz_loadu_epi16(f.bits<Masked>(0, step), half_at(*f.tensor, f.element(0, step)));
  };
  for (int64_t step = 0; step < k; step += 2, panel += 32) {
    const Pairs pairs = interleave(row(step), step + 1 < k ? row(step + 1) : _mm512_setzero_si512());
    _mm512_storeu_si512(panel, pairs.first);
    _mm512_storeu_si512(panel + 16, pairs.last);
  }
}

// Packs eight neighbouring panels of twelve lanes of bf16, columns of a matrix, in pairs; panels begin `stride` units apart.
inline void pack_eight(const Factor& f, int64_t k, uint32_t* __restrict panels, int64_t stride) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int64_t step = 0; step < k; step += 2, panels += 12) {
    __m512i units[7];
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
      const uint16_t* low = half_at(*f.tensor, f.element(32 * i, step));
      const Pairs pairs = interleave(_mm512_loadu_si512(low), step + 1 < k ? _mm512_loadu_si512(low + f.stride) : _mm512_setzero_si512());
      units[2 * i] = pairs.first;
      units[2 * i + 1] = pairs.last;
    }
    units[6] = units[5];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      const int at = 12 * i;
      const __m512i order = _mm512_add_epi32(lane, _mm512_set1_epi32(at % 16));
      const __m512i twelve = _mm512_permutex2var_epi32(units[at / 16], order, units[at / 16 + 1]);
      _mm512_mask_storeu_epi32(panels + i * stride, 0xfff, twelve);
    }
  }
}
#else
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
// Eight numbers as bf16, n of which exist: along K of lane l, or of one step from lane l on.
template <bool Masked>
inline uint16x8_t load_halves(const Factor& f, int64_t l, int64_t k, int64_t n) {
  const Tensor& t = *f.tensor;
  const int64_t at = f.element(l, k);
  uint16x8_t x{};
  if (!f.codes && t.dtype == DType::bf16) {
    if (n >= 8) [[likely]] x = vld1q_u16(half_at(t, at));
    else if (n > 0) std::memcpy(&x, half_at(t, at), static_cast<size_t>(n) * sizeof(uint16_t));
  } else {
    const auto four = [&](int64_t i) { return (float32x4_t)(f.codes ? f.codes->lanes(at + i, n - i) : load_lanes(t, at + i, n - i)); };
    x = vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(four(0)), four(4)));
  }
  if constexpr (!Masked) return x;
  // The bits of four neighbours are always in one word.
  const bool rows = f.lanes_are_rows;
  const uint32_t bits = (f.bits<Masked>(l, k) & 15) | (n > 4 ? f.bits<Masked>(rows ? l : l + 4, rows ? k + 4 : k) << 4 : 0);
  const uint16x8_t place{1, 2, 4, 8, 16, 32, 64, 128};
  return vandq_u16(x, vtstq_u16(vdupq_n_u16(static_cast<uint16_t>(bits)), place));
}

// Packs a panel in pairs of which two steps lie together.
template <bool Masked>
inline void pack_fours(const Factor& f, int64_t valid, int64_t lanes, int64_t k, uint32_t* __restrict panel) {
  const auto put = [&](int64_t step, int64_t lane, auto x) {
    vst1q_u16(reinterpret_cast<uint16_t*>(panel + (step / 4 * lanes + lane) * 2), (uint16x8_t)x);
  };
  if (f.lanes_are_rows) {
    for (int64_t lane = 0; lane < lanes; lane += 2)
      for (int64_t step = 0; step < k; step += 8) {
        const auto row = [&](int64_t l) { return (uint64x2_t)(l < valid ? load_halves<Masked>(f, l, step, k - step) : uint16x8_t{}); };
        const uint64x2_t even = row(lane), odd = row(lane + 1);
        put(step, lane, vzip1q_u64(even, odd));
        if (step + 4 < k) put(step + 4, lane, vzip2q_u64(even, odd));
      }
    return;
  }
  for (int64_t lane = 0; lane < lanes; lane += 8) {
    // Lanes that are read beyond the panel's are not in it, so they may be anything that the tensor has.
    const int64_t beyond = f.tensor->size() - f.element(lane, 0) - 8;
    for (int64_t step = 0; step < k; step += 4) {
      const auto row = [&](int64_t s) {
        if (s >= k) return uint16x8_t{};
        return load_halves<Masked>(f, lane, s, valid == lanes && s * f.stride <= beyond ? 8 : valid - lane);
      };
      const uint16x8_t a = row(step), b = row(step + 1), c = row(step + 2), d = row(step + 3);
      const auto low = (uint32x4_t)vzip1q_u16(a, b), high = (uint32x4_t)vzip1q_u16(c, d);
      put(step, lane, vzip1q_u32(low, high));
      put(step, lane + 2, vzip2q_u32(low, high));
      if (lane + 4 >= lanes) continue;
      const auto lower = (uint32x4_t)vzip2q_u16(a, b), higher = (uint32x4_t)vzip2q_u16(c, d);
      put(step, lane + 4, vzip1q_u32(lower, higher));
      put(step, lane + 6, vzip2q_u32(lower, higher));
    }
  }
}
#endif

// kLanes units, `left` of which exist: along K of lane l, or of one step from lane l on.
template <bool Masked>
inline Lanes load_units(const Factor& f, int64_t l, int64_t k, int64_t left, Form form) {
  const int64_t at = f.element(l, k);
  Lanes x = f.codes ? f.codes->lanes(at, left) : load_lanes(*f.tensor, at, left);
  if constexpr (Masked) x = keep(x, f.bits<true>(l, k));
  return form == Form::rounded && (f.codes || f.tensor->dtype == DType::f32) ? round_lanes(x) : x;
}
#endif

// Packs `valid` lanes of a factor into a panel of `lanes`, whose other lanes become zero.
template <bool Masked>
inline void pack_lanes(const Factor& f, int64_t valid, int64_t lanes, int64_t k, Form form, uint32_t* __restrict panel) {
  const int64_t steps = steps_of(form, k);
#if defined(__AVX512F__)
  const int64_t per_step = form == Form::pairs ? 2 : 1;
  if (!f.lanes_are_rows && valid == 32 && lanes == 32 && form == Form::pairs && (f.codes || f.tensor->dtype == DType::bf16))
    return pack_pairs<Masked>(f, k, panel);
  for (int64_t lane = 0; lane < lanes; lane += 16) {
    const __mmask16 stored = first(lanes - lane), loaded = first(valid - lane);
    if (!f.lanes_are_rows) {
      for (int64_t step = 0; step < steps; step++) {
        const int64_t at = step * per_step;
        _mm512_mask_storeu_epi32(panel + step * lanes + lane, stored, load_step<Masked>(f, lane, at, k - at, loaded, form));
      }
      continue;
    }
    for (int64_t step = 0; step < steps; step += 16) {
      __m512i rows[16];
      const int64_t at = step * per_step;
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) rows[i] = lane + i < valid ? load_units<Masked>(f, lane + i, at, k - at, form) : _mm512_setzero_si512();
      transpose(rows);
      uint32_t* out = panel + step * lanes + lane;
      const int64_t n = steps - step < 16 ? steps - step : 16;
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        if (i < n) _mm512_mask_storeu_epi32(out + i * lanes, stored, rows[i]);
    }
  }
#else
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  if (form == Form::pairs) return pack_fours<Masked>(f, valid, lanes, k, panel);
#endif
  // Steps are stored in ascending order: what a vector writes beyond its lanes, the next step overwrites.
  const auto store = [&](int64_t step, int64_t lane, Lanes x) __attribute__((always_inline)) {
    uint32_t* to = panel + step * lanes + lane;
    if (lane + kLanes <= lanes || step + 1 < steps) put_lanes(to, x);
    else std::memcpy(to, &x, static_cast<size_t>(lanes - lane) * 4);
  };
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    if (!f.lanes_are_rows) {
      // Lanes that are read beyond the panel's are not in it, so they may be anything that the tensor has.
      const int64_t beyond = f.tensor->size() - f.element(lane, 0) - kLanes, row = f.stride;
      for (int64_t step = 0; step < steps; step++)
        store(step, lane, load_units<Masked>(f, lane, step, valid == lanes && step * row <= beyond ? kLanes : valid - lane, form));
      continue;
    }
    for (int64_t step = 0; step < steps; step += kLanes) {
      Lanes rows[kLanes];
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; i++) rows[i] = lane + i < valid ? load_units<Masked>(f, lane + i, step, k - step, form) : Lanes{};
      transpose(rows);
      const int64_t n = std::min<int64_t>(steps - step, kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; i++)
        if (i < n) store(step + i, lane, rows[i]);
    }
  }
#endif
}

}  // namespace lowrank::LOWRANK_ISA
