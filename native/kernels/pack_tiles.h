// Packing panels for tile registers: numbers of f32 in three parts of bf16, and left factors of bf16 chunk by chunk (tiles.h).
#pragma once
#include "pack_lanes.h"

#if defined(__AMX_BF16__)
namespace lowrank::LOWRANK_ISA {
// Sixteen pairs of f32 numbers, each number in parts.
struct Parts {
  __m512i of[kParts];
};
inline Parts split(__m512 low, __m512 high) {
  Parts parts;
#pragma GCC unroll 3
  for (int p = 0; p < kParts; p++) {
    const auto upper = [&](__m512 x) {
      // The second part is rounded, which cannot overflow there, so that what is left out has either sign.
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

// Packs one chunk of Vectors · 16 lanes in parts, of which `left` elements of K exist; the first sixteen of K are paired with the other
// sixteen. The chunk is stored by steps, or else by lanes. With Plain all of it exists, in f32 and without a mask.
template <int Vectors, bool Masked, bool Plain, bool Rows, bool BySteps>
inline void pack_chunk(const Factor& f, int64_t valid, int64_t k, int64_t left, uint32_t* __restrict out) {
  constexpr int lanes = 16 * Vectors;
  const float* from = Plain ? f32_at(*f.tensor, f.element(0, k)) : nullptr;
  const int64_t across = f.stride;
  // Sixteen numbers of the v-th sixteen lanes, in the half of the chunk that begins `at`: along K in lane i, or of all lanes in step i.
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
  // Prefetches as much of the next chunk, the lines of a step together.
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
    // Prefetching more of a left factor's rows gains nothing.
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

// Packs `valid` lanes of a factor in parts, Vectors · 16 in all: a left panel by lanes, or a right one by steps.
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
  if (f.lanes_are_rows) {
    f.mask ? pack_in_parts<Vectors, true, true, BySteps>(f, valid, k, panel)
           : pack_in_parts<Vectors, false, true, BySteps>(f, valid, k, panel);
  } else {
    f.mask ? pack_in_parts<Vectors, true, false, BySteps>(f, valid, k, panel)
           : pack_in_parts<Vectors, false, false, BySteps>(f, valid, k, panel);
  }
}

// Packs `valid` lanes of a factor into a left panel of Rows for tile registers.
template <int Rows, bool Masked>
inline void pack_tile_rows(const Factor& f, int64_t valid, int64_t k, uint32_t* __restrict panel) {
  for (int64_t step = 0; step < k; step += 2 * kChunk, panel += Rows * kChunk) {
    if (f.lanes_are_rows) {
      for (int64_t lane = 0; lane < Rows; lane++) {
        const __m512i units = lane < valid ? load_units<Masked>(f, lane, step, k - step, Form::pairs) : _mm512_setzero_si512();
        _mm512_storeu_si512(panel + lane * kChunk, units);
      }
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

}  // namespace lowrank::LOWRANK_ISA
#endif
