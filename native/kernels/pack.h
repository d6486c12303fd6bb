// Panels of a product's factors: how they lie, and how they are packed.
//
// A panel holds `lanes` rows (or columns) of a factor, K-major: units[step · lanes + lane], each unit 4 bytes: one f32, or two
// neighbouring bf16 values of K (the lower half first), of which a step covers both. On Arm two steps of pairs lie together, a lane's four values
// side by side: units[(step / 2 · lanes + lane) · 2 + step % 2]. Those for tile registers: tiles.h. (In parts a pair is of values
// sixteen apart: so halves of a chunk need no shuffling.)
#pragma once
#include <algorithm>
#include <array>

#include "quantized.h"
#include "tiles.h"

namespace lowrank::LOWRANK_ISA {

// A tile: its sums and what they are made of fill the registers.
inline constexpr int kRows = kManyRegisters ? 12 : kLanes == 8 ? 6 : 4;
inline constexpr int kColumns = 2 * kLanes;

// Products of bf16 have an instruction of their own on some machines; on the others their factors are widened to f32.
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
inline constexpr bool kHasPairs = true;
#else
inline constexpr bool kHasPairs = false;
#endif
// Steps of pairs that lie together: as many as one instruction multiplies.
inline constexpr int kTogether = kHasPairs && kLanes == 4 ? 2 : 1;

// How factors are packed: f32 as they are, f32 rounded to bf16, pairs of bf16, pairs for tile registers, or f32 in three parts for them (tiles.h).
enum class Form { exact, rounded, pairs, tiles, parts };
inline constexpr Form kNarrow = kHasTiles ? Form::tiles : kHasPairs ? Form::pairs : Form::rounded;
inline constexpr Form kWide = kHasTiles ? Form::parts : Form::exact;

// Products of this form are computed in tile registers.
constexpr bool in_tiles(Form form) { return kHasTiles && (form == Form::tiles || form == Form::parts); }

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

inline int64_t steps_of(Form form, int64_t k) {
  if (form == Form::tiles) return round_up((k + 1) / 2, kChunk);
  if (form == Form::parts) return round_up((k + 1) / 2, kChunk) * kParts;
  return form == Form::pairs ? round_up(k, 2 * kTogether) / 2 : k;
}

// Which elements of a matrix count, the others being 0: bit j % 32 of word [i, j / 32]. Without words, all.
struct Mask {
  const uint32_t* words = nullptr;
  int64_t stride = 0;

  explicit operator bool() const { return words != nullptr; }
  // Bits of row i from column j on, the lowest first, up to the end of j's word.
  uint32_t from(int64_t i, int64_t j) const { return words[i * stride + j / 32] >> j % 32; }
};

// A matrix by lanes and K: a lane is one of its rows, or else one of its columns.
struct Factor {
  const Tensor* tensor;
  bool lanes_are_rows;
  int64_t stride;  // elements from row to row
  int64_t lane = 0, k = 0;  // where a panel begins
  Mask mask = {};
  const Codes* codes = nullptr;  // of a quantised weight

  // op(m) of a product as the left factor (lanes are rows unless it is transposed), or as the right one.
  static Factor left(const Tensor& m, bool transposed) { return {&m, !transposed, m.shape[1]}; }
  static Factor right(const Tensor& m, bool transposed) { return {&m, transposed, m.shape[1]}; }
  static Factor weight(const Tensor& m, bool transposed, const Codes& codes) {
    return {.tensor = &m, .lanes_are_rows = transposed, .stride = m.shape[1], .codes = codes ? &codes : nullptr};
  }

  Factor at(int64_t l, int64_t step) const { return {tensor, lanes_are_rows, stride, lane + l, k + step, mask, codes}; }
  int64_t element(int64_t l, int64_t step) const {
    return lanes_are_rows ? (lane + l) * stride + k + step : (k + step) * stride + lane + l;
  }
  // The mask's bits of lane l from this step on, or of this step from lane l on.
  template <bool Masked>
  uint32_t bits(int64_t l, int64_t step) const {
    if constexpr (!Masked) return 0xffffffffu;
    else return lanes_are_rows ? mask.from(lane + l, k + step) : mask.from(k + step, lane + l);
  }
};

inline uint32_t pair_of(uint16_t low, uint16_t high) { return low | static_cast<uint32_t>(high) << 16; }

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

// Sixteen bf16 numbers of a tensor, rounded where it is f32.
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

// Two rows of 32 halves, shuffled into each other: 32 pairs.
struct Pairs {
  __m512i first, last;
};
inline Pairs interleave(__m512i low, __m512i high) {
  alignas(64) static constexpr auto order = [] {
    std::array<uint16_t, 64> o{};
    for (int i = 0; i < 32; i++) o[2 * i] = static_cast<uint16_t>(i), o[2 * i + 1] = static_cast<uint16_t>(32 + i);
    return o;
  }();
  return {_mm512_permutex2var_epi16(low, _mm512_load_si512(order.data()), high), _mm512_permutex2var_epi16(low, _mm512_load_si512(order.data() + 32), high)};
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
      const __m512i twelve = _mm512_permutex2var_epi32(units[at / 16], _mm512_add_epi32(lane, _mm512_set1_epi32(at % 16)), units[at / 16 + 1]);
      _mm512_mask_storeu_epi32(panels + i * stride, 0xfff, twelve);
    }
  }
}
#else
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
// Eight bf16 numbers along K of lane l, or of one step from lane l on: n of them exist.
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
  // Four neighbours' bits are in one word.
  const bool rows = f.lanes_are_rows;
  const uint32_t bits = (f.bits<Masked>(l, k) & 15) | (n > 4 ? f.bits<Masked>(rows ? l : l + 4, rows ? k + 4 : k) << 4 : 0);
  const uint16x8_t place{1, 2, 4, 8, 16, 32, 64, 128};
  return vandq_u16(x, vtstq_u16(vdupq_n_u16(static_cast<uint16_t>(bits)), place));
}

// Packs a panel in pairs, two steps together.
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

// kLanes units along K of lane l, of which `left` elements of K exist; or lanes from l on of one step, of which so many exist.
template <bool Masked>
inline Lanes load_units(const Factor& f, int64_t l, int64_t k, int64_t left, Form form) {
  const int64_t at = f.element(l, k);
  Lanes x = f.codes ? f.codes->lanes(at, left) : load_lanes(*f.tensor, at, left);
  if constexpr (Masked) x = keep(x, f.bits<true>(l, k));
  return form == Form::rounded && (f.codes || f.tensor->dtype == DType::f32) ? round_lanes(x) : x;
}
#endif

// Packs `valid` lanes of a factor into a panel of `lanes`, the rest zero.
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

#if defined(__AMX_BF16__)
// Pairs of f32 numbers, sixteen, in parts.
struct Parts {
  __m512i of[kParts];
};
inline Parts split(__m512 low, __m512 high) {
  Parts parts;
#pragma GCC unroll 3
  for (int p = 0; p < kParts; p++) {
    const auto upper = [&](__m512 x) {
      // Rounded where there is no overflow, so that what is left out has either sign.
      const __m512i bits = p == 1 ? _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)) : _mm512_castps_si512(x);
      return _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
    };
    const __m512i a = upper(low), b = upper(high);
    parts.of[p] = _mm512_or_si512(b, _mm512_srli_epi32(a, 16));
    low = _mm512_sub_ps(low, _mm512_castsi512_ps(a));
    high = _mm512_sub_ps(high, _mm512_castsi512_ps(b));
  }
  return parts;
}

// One chunk of Vectors · 16 lanes in parts, `left` elements of K, the first sixteen in pairs with the others: by steps, or else by lanes. With Plain all
// of it is there, in f32 and without a mask.
template <int Vectors, bool Masked, bool Plain, bool Rows, bool BySteps>
inline void pack_chunk(const Factor& f, int64_t valid, int64_t k, int64_t left, uint32_t* __restrict out) {
  constexpr int lanes = 16 * Vectors;
  const float* from = Plain ? f32_at(*f.tensor, f.element(0, k)) : nullptr;
  const int64_t across = f.stride;
  // Of sixteen lanes, number v: half of lane i, or all in step i of one half, which begins `at`.
  const auto half = [&](int v, int i, int at) __attribute__((always_inline)) {
    if constexpr (Plain) return _mm512_loadu_ps(Rows ? from + (16 * v + i) * across + at : from + (at + i) * across + 16 * v);
    const int lane = 16 * v + (Rows ? i : 0), step = at + (Rows ? 0 : i);
    const int64_t n = Rows ? (lane < valid ? left - at : 0) : (step < left ? valid - lane : 0);
    if (n <= 0) return _mm512_setzero_ps();
    if (f.codes) return f.codes->lanes(f.element(lane, k + step), n);
    return load_lanes(*f.tensor, f.element(lane, k + step), static_cast<__mmask16>(first(n) & f.bits<Masked>(lane, k + step)));
  };
  const auto store = [&](int v, int i, __m512 low, __m512 high) __attribute__((always_inline)) {
    const Parts parts = split(low, high);
    uint32_t* to = out + (BySteps ? i * lanes + 16 * v : (16 * v + i) * kChunk);
#pragma GCC unroll 3
    for (int p = 0; p < kParts; p++) _mm512_storeu_si512(to + p * lanes * kChunk, parts.of[p]);
  };
  // Asks for as much of the next chunk, lines of a step together.
  const auto ask = [&](int v, int i) __attribute__((always_inline)) {
    if constexpr (!Plain) return;
    if constexpr (Rows) {
      __builtin_prefetch(from + (16 * v + i) * across + 2 * kChunk, 0, 2);
      __builtin_prefetch(from + (16 * v + i) * across + 3 * kChunk, 0, 2);
    } else if (v == 0) {
      for (int line = 0; line < Vectors; line++) {
        __builtin_prefetch(from + (2 * kChunk + i) * across + 16 * line, 0, 2);
        __builtin_prefetch(from + (3 * kChunk + i) * across + 16 * line, 0, 2);
      }
    }
  };
  if constexpr (Rows == BySteps) {
    for (int v = 0; v < Vectors; v++) {
      __m512i low[16], high[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        ask(v, i);
        low[i] = _mm512_castps_si512(half(v, i, 0));
      }
      transpose(low);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) high[i] = _mm512_castps_si512(half(v, i, kChunk));
      transpose(high);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) store(v, i, _mm512_castsi512_ps(low[i]), _mm512_castsi512_ps(high[i]));
    }
  } else if constexpr (Rows) {
    // To ask for more of a left factor's rows gains nothing.
    for (int v = 0; v < Vectors; v++)
      for (int i = 0; i < 16; i++) store(v, i, half(v, i, 0), half(v, i, kChunk));
  } else {
    for (int i = 0; i < 16; i++) {
      ask(0, i);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; v++) store(v, i, half(v, i, 0), half(v, i, kChunk));
    }
  }
}

// Packs `valid` lanes of a factor in parts: a left panel of Vectors · 16, by lanes, or a right one, by steps.
template <int Vectors, bool Masked, bool Rows, bool BySteps>
inline void pack_in_parts(const Factor& f, int64_t valid, int64_t k, uint32_t* panel) {
  const bool plain = !f.mask && !f.codes && f.tensor->dtype == DType::f32 && valid == 16 * Vectors;
  for (int64_t step = 0; step < k; step += 2 * kChunk, panel += kParts * Vectors * 16 * kChunk) {
    if (plain && k - step >= 2 * kChunk) pack_chunk<Vectors, false, true, Rows, BySteps>(f, valid, step, k - step, panel);
    else pack_chunk<Vectors, Masked, false, Rows, BySteps>(f, valid, step, k - step, panel);
  }
}

template <int Vectors, bool BySteps>
inline void pack_in_parts(const Factor& f, int64_t valid, int64_t k, uint32_t* panel) {
  if (f.lanes_are_rows) f.mask ? pack_in_parts<Vectors, true, true, BySteps>(f, valid, k, panel) : pack_in_parts<Vectors, false, true, BySteps>(f, valid, k, panel);
  else f.mask ? pack_in_parts<Vectors, true, false, BySteps>(f, valid, k, panel) : pack_in_parts<Vectors, false, false, BySteps>(f, valid, k, panel);
}
#endif

inline void pack_panel(const Factor& f, int64_t valid, int64_t lanes, int64_t k, Form form, uint32_t* panel) {
#if defined(__AMX_BF16__)
  if (form == Form::parts) return lanes == kLanes ? pack_in_parts<1, true>(f, valid, k, panel) : pack_in_parts<2, true>(f, valid, k, panel);
#endif
  if (form == Form::tiles) {
    const int64_t steps = steps_of(Form::pairs, k);
    std::fill(panel + steps * lanes, panel + steps_of(form, k) * lanes, 0);
    form = Form::pairs;
  }
  f.mask ? pack_lanes<true>(f, valid, lanes, k, form, panel) : pack_lanes<false>(f, valid, lanes, k, form, panel);
}

#if defined(__AMX_BF16__)
// Packs `valid` lanes of a factor into a left panel of Rows for tile registers.
template <int Rows, bool Masked>
inline void pack_tile_rows(const Factor& f, int64_t valid, int64_t k, uint32_t* __restrict panel) {
  for (int64_t step = 0; step < k; step += 2 * kChunk, panel += Rows * kChunk) {
    if (f.lanes_are_rows) {
      for (int64_t lane = 0; lane < Rows; lane++)
        _mm512_storeu_si512(panel + lane * kChunk, lane < valid ? load_units<Masked>(f, lane, step, k - step, Form::pairs) : _mm512_setzero_si512());
      continue;
    }
    for (int64_t lane = 0; lane < Rows; lane += kTile) {
      __m512i units[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        const int64_t at = step + 2 * i;
        units[i] = at < k ? load_step<Masked>(f, lane, at, k - at, first(valid - lane), Form::pairs) : _mm512_setzero_si512();
      }
      transpose(units);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) _mm512_storeu_si512(panel + (lane + i) * kChunk, units[i]);
    }
  }
}
#endif

// Packs `valid` lanes of a left factor into a panel of Rows lanes.
template <int Rows>
inline void pack_left_panel(const Factor& f, int64_t valid, int64_t k, Form form, uint32_t* panel) {
#if defined(__AMX_BF16__)
  if constexpr (Rows % kTile == 0) {
    if (form == Form::parts) return pack_in_parts<Rows / 16, false>(f, valid, k, panel);
    return f.mask ? pack_tile_rows<Rows, true>(f, valid, k, panel) : pack_tile_rows<Rows, false>(f, valid, k, panel);
  }
#endif
  pack_panel(f, valid, Rows, k, form, panel);
}

// Asks for the lines of rows [begin, end) of K in a panel of columns that is about to be packed.
[[gnu::always_inline]] inline void prefetch_rows(const Factor& f, int64_t begin, int64_t end, int64_t columns) {
  const int64_t halves = f.tensor->dtype == DType::u4 ? 1 : 2 * bytes_per_element(f.tensor->dtype);
  for (int64_t k = begin; k < end; k++) {
    const char* line = static_cast<const char*>(f.tensor->data) + f.element(0, k) * halves / 2;
    for (int64_t at = 0; at < columns * halves / 2; at += 64) __builtin_prefetch(line + at, 0, 2);
  }
}

}  // namespace lowrank::LOWRANK_ISA
