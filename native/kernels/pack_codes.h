// Packs codes of 4 bits into panels of columns for tile registers.
#pragma once
#include <array>

#include "pack.h"

#if defined(__AMX_BF16__)
namespace lowrank::LOWRANK_ISA {

// So many rows of K are packed for all panels of a group before the next ones. Codes are prefetched as far ahead, and as many share a
// scale.
inline constexpr int64_t kAhead = 64;

// Packs two neighbouring panels of columns, k rows of K, which is even, where the 64 columns of a row share a scale. The 16 numbers that
// the codes of each of two rows stand for lie in one register, so that one permutation yields pairs.
inline void pack_codes(const Factor& f, int64_t k, uint32_t* __restrict left, uint32_t* __restrict right) {
  // Picks eight of the 32 bytes of both rows for sixteen columns. Each byte is taken twice, as it has two codes; those of the first row go
  // to the low half of a unit, those of the second row to the high one.
  alignas(64) static constexpr auto kBytes = [] {
    std::array<std::array<uint8_t, 64>, 4> order{};
    for (int i = 0; i < 256; i++) order[i / 64][i % 64] = static_cast<uint8_t>(i % 4 / 2 * 32 + i / 8);
    return order;
  }();
  const Codes& codes = *f.codes;
  const __m512 values = _mm512_loadu_ps(codes.values);
  // The codes of even columns are in the high halves of bytes; the numbers of the second row are the upper 16 of the register.
  const __m512i shifts = _mm512_set1_epi64(0x0004'0004), kept = _mm512_set1_epi32(0x000f'000f), upper = _mm512_set1_epi32(0x0010'0000);
  for (int64_t step = 0; step < k; step += 2, left += kColumns, right += kColumns) {
    const int64_t low = f.element(0, step), high = low + f.stride;
    const auto prefetch = [&](int64_t at) { __builtin_prefetch(codes.data + (at + kAhead * f.stride) / 2, 0, 2); };
    prefetch(low);
    prefetch(high);
    const auto numbers = [&](int64_t at) { return _mm512_mul_ps(values, _mm512_set1_ps(codes.scale(at))); };
    const auto table = (__m512i)_mm512_cvtne2ps_pbh(numbers(high), numbers(low));
    const auto row = [&](int64_t at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes.data + at / 2)); };
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(row(low)), row(high), 1);
    const auto sixteen = [&](int i, uint32_t* out) {
      const __m512i spread = _mm512_srlv_epi16(_mm512_permutexvar_epi8(_mm512_load_si512(kBytes[i].data()), both), shifts);
      const __m512i index = _mm512_ternarylogic_epi32(spread, kept, upper, 0xea);  // (spread & kept) | upper
      _mm512_storeu_si512(out, _mm512_permutexvar_epi16(index, table));
    };
    sixteen(0, left);
    sixteen(1, left + kLanes);
    sixteen(2, right);
    sixteen(3, right + kLanes);
  }
}

// Packs a panel of columns whose codes lie along K, `some` rows of K in whole blocks of 64, where blocks of 64 or more share a scale. Eight
// codes of each of sixteen columns are transposed together before they become numbers, which are four times as long.
inline void pack_codes_along(const Factor& f, int64_t some, uint32_t* __restrict panel) {
  alignas(64) static constexpr auto kPairs = [] {
    std::array<uint16_t, 32> order{};
    for (int i = 0; i < 32; i++) order[i] = static_cast<uint16_t>(i % 2 * 16 + i / 2);
    return order;
  }();
  const Codes& codes = *f.codes;
  const __m512 values = _mm512_loadu_ps(codes.values);
  const __m512i pairs = _mm512_load_si512(kPairs.data());
  alignas(64) float scales[kLanes];
  for (int64_t column = 0; column < kColumns; column += kLanes)
    for (int64_t k = 0; k < some; k += 64) {
      // Prefetches the codes and scales of the next columns, a line of each at a time.
      for (int64_t i = 0, next = f.element(column + kLanes, k); i < kLanes; i++, next += f.stride) {
        if (k % 128 == 0) __builtin_prefetch(codes.data + next / 2, 0, 2);
        if (codes.scale_codes && k % 1024 == 0) __builtin_prefetch(codes.scale_codes + (next >> codes.block), 0, 2);
      }
      for (int i = 0; i < kLanes; i++) scales[i] = codes.scale(f.element(column + i, k));
      const __m512 scale = _mm512_load_ps(scales);
      for (int64_t step = k; step < k + 64; step += 2 * kChunk) {
        const uint8_t* from = codes.data + f.element(column, step) / 2;
        const auto four = [&](int64_t i) {
          const auto row = [&](int64_t j) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + (i + j) * f.stride / 2)); };
          __m512i rows = _mm512_castsi128_si512(row(0));
          rows = _mm512_mask_broadcast_i32x4(rows, 0x00f0, row(4));
          rows = _mm512_mask_broadcast_i32x4(rows, 0x0f00, row(8));
          return _mm512_mask_broadcast_i32x4(rows, 0xf000, row(12));
        };
        const auto eight = [&](__m512i bytes, uint32_t* out) {
#pragma GCC unroll 4
          for (int i = 0; i < 4; i++) {
            // The permutation looks only at the lowest four bits of an index.
            const __m512 low = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 8 * i + 4), values), scale);
            const __m512 high = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 8 * i), values), scale);
            _mm512_storeu_si512(out + i * kColumns, _mm512_permutexvar_epi16(pairs, (__m512i)_mm512_cvtne2ps_pbh(high, low)));
          }
        };
        const __m512i a = four(0), b = four(1), c = four(2), d = four(3);
        const __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
        const __m512i AB = _mm512_unpackhi_epi32(a, b), CD = _mm512_unpackhi_epi32(c, d);
        uint32_t* out = panel + step / 2 * kColumns + column;
        eight(_mm512_unpacklo_epi64(ab, cd), out);
        eight(_mm512_unpackhi_epi64(ab, cd), out + 4 * kColumns);
        eight(_mm512_unpacklo_epi64(AB, CD), out + 8 * kColumns);
        eight(_mm512_unpackhi_epi64(AB, CD), out + 12 * kColumns);
      }
    }
}

}  // namespace lowrank::LOWRANK_ISA
#endif
