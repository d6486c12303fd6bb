// Frozen weights in 4 or 8 bits: codes that become numbers where they are used. src/core/ops.table.ts has the formulas.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>

#include "blocks.h"

namespace lowrank::LOWRANK_ISA {

// The codes of a matrix [rows, columns] and what turns them into numbers.
struct Codes {
  const uint8_t* data = nullptr;
  bool wide = false;  // whether codes are i8 with a scale for each row; otherwise two u4 are in a byte, with a scale for each block
  int64_t columns = 0;
  int block = 0, nested_block = 0;  // the logarithms to base 2 of the block sizes
  const float* values = nullptr;    // what the 16 codes stand for
  const float* scales = nullptr;    // absmax where that is f32, or else what follows:
  const uint8_t* scale_codes = nullptr;
  const float *nested_values = nullptr, *nested_absmax = nullptr;
  float offset = 0;

  explicit operator bool() const { return data != nullptr; }

  // Checks the operands of a quantised weight, which must be a matrix of u4 or i8.
  static Codes of(const Tensor& weight, const Tensor& absmax, const Tensor& constants);

  // The factor of the codes at this element.
  float scale(int64_t element) const {
    if (wide) return scales[element / columns];
    const int64_t at = element >> block;
    if (scales) return scales[at];
    float scaled = nested_values[scale_codes[at]] * nested_absmax[at >> nested_block];
    LOWRANK_OPAQUE(scaled);
    return scaled + offset;
  }
  int code(int64_t element) const {
    if (wide) return static_cast<int8_t>(data[element]);
    return element % 2 ? data[element / 2] & 15 : data[element / 2] >> 4;
  }
  // How many elements from this one on share its scale.
  int64_t alike(int64_t element) const {
    const int64_t period = int64_t{1} << block;
    return wide ? columns - element % columns : period - (element & (period - 1));
  }

  // Decodes `n` numbers from `element` on.
  void decode(int64_t element, int64_t n, float* __restrict out) const {
    while (n > 0) {
      const int64_t some = std::min(n, alike(element));
      const float factor = scale(element);
      if (wide) {
        const auto* codes = reinterpret_cast<const int8_t*>(data) + element;
        for (int64_t i = 0; i < some; i++) out[i] = static_cast<float>(codes[i]) * factor * (1.f / 127.f);
      } else {
        for (int64_t i = 0; i < some; i++) out[i] = values[code(element + i)] * factor;
      }
      element += some, out += some, n -= some;
    }
  }

#if defined(__AVX512F__)
  // Sixteen numbers from `element` on, of which `count` exist.
  __m512 lanes(int64_t element, int64_t count) const {
    if (count >= 16 && alike(element) >= 16 && (wide || element % 2 == 0)) {
      const __m512 factor = _mm512_set1_ps(scale(element));
      if (wide) {
        const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data + element));
        return _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), factor), _mm512_set1_ps(1.f / 127.f));
      }
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(data + element / 2));
      // The first of two codes is in bits 4 to 7, the second in bits 0 to 3.
      const __m256i pairs = _mm256_cvtepu8_epi32(bytes), four = _mm256_set1_epi32(15);
      const __m256i halves = _mm256_or_si256(_mm256_srli_epi32(pairs, 4), _mm256_slli_epi32(_mm256_and_si256(pairs, four), 16));
      return _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_cvtepu16_epi32(halves), _mm512_loadu_ps(values)), factor);
    }
    alignas(64) float numbers[16] = {};
    decode(element, std::min<int64_t>(count, 16), numbers);
    return _mm512_load_ps(numbers);
  }

  // Thirty-two numbers from `element` on as bf16, of which `count` exist.
  __m512i halves(int64_t element, int64_t count) const {
    if (!wide && count >= 32 && element % 32 == 0) {
      // The table has a scale's sixteen numbers twice, so that an index needs no mask for the bit above its four.
      const __m256i rounded = round_lanes(_mm512_mul_ps(_mm512_loadu_ps(values), _mm512_set1_ps(scale(element))));
      const __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(rounded), rounded, 1);
      const __m512i pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data + element / 2)));
      return _mm512_permutexvar_epi16(_mm512_or_si512(_mm512_srli_epi32(pairs, 4), _mm512_slli_epi32(pairs, 16)), table);
    }
    const __m256i low = round_lanes(lanes(element, count));
    const __m256i high = count > 16 ? round_lanes(lanes(element + 16, count - 16)) : _mm256_setzero_si256();
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
#else
  // kLanes numbers from `element` on, of which `count` exist; the others are 0.
  Lanes lanes(int64_t element, int64_t count) const {
    if (count >= kLanes && alike(element) >= kLanes && (wide || element % 2 == 0)) [[likely]] {
      if (wide) {
        typedef int8_t Bytes __attribute__((vector_size(kLanes), aligned(1), may_alias));
        const Lanes codes = __builtin_convertvector(*reinterpret_cast<const Bytes*>(data + element), Lanes);
        return codes * scale(element) * (1.f / 127.f);
      }
      return four_bit_lanes(data + element / 2) * scale(element);
    }
    Lanes numbers{};
    decode(element, std::min<int64_t>(count, kLanes), reinterpret_cast<float*>(&numbers));
    return numbers;
  }

  // What kLanes codes of 4 bits stand for, before their scale.
  Lanes four_bit_lanes(const uint8_t* bytes) const {
#if defined(__AVX2__)
    uint32_t eight;
    std::memcpy(&eight, bytes, sizeof eight);
    // The first of two codes is in the high half of a byte. The permutations look at the lowest three bits of a code, and its fourth bit
    // chooses between them.
    const __m256i index = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(eight)), _mm256_set_epi32(24, 28, 16, 20, 8, 12, 0, 4));
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values), index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values + 8), index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
#elif defined(__aarch64__)
    // The first of two codes is in the high half of a byte. The four bytes of each number are picked from the 64 of all sixteen.
    const uint32x4_t two = vdupq_n_u32(bytes[0] | static_cast<uint32_t>(bytes[1]) << 8);
    const uint32x4_t codes = vandq_u32(vshlq_u32(two, int32x4_t{-4, 0, -12, -8}), vdupq_n_u32(15));
    const uint32x4_t places = vmlaq_u32(vdupq_n_u32(0x03020100), codes, vdupq_n_u32(0x04040404));
    return (Lanes)vqtbl4q_u8(vld1q_u8_x4(reinterpret_cast<const uint8_t*>(values)), vreinterpretq_u8_u32(places));
#else
    return Lanes{values[bytes[0] >> 4], values[bytes[0] & 15], values[bytes[1] >> 4], values[bytes[1] & 15]};
#endif
  }
#endif
};

// Codes of 8 bits that have no formula are looked up by bins: so many equal parts of [−1, 1].
inline constexpr int64_t kBins = 65536;

// Encodes the numbers x of one block and returns its scale, which is their largest magnitude.
inline float encode_bins(const float* __restrict x, int64_t n, const uint8_t* __restrict code_of_bin, uint8_t* __restrict codes) {
  constexpr int64_t kSome = 256;
  float absmax = 0.f;
#pragma omp simd reduction(max : absmax)
  for (int64_t i = 0; i < n; i++) absmax = std::max(absmax, std::fabs(x[i]));
  if (absmax == 0.f) {
    std::fill_n(codes, n, uint8_t{0});
    return absmax;
  }
  const float inverse = 1.f / absmax;
  int32_t bins[kSome];
  for (int64_t begin = 0; begin < n; begin += kSome) {
    const int64_t some = std::min(kSome, n - begin);
    for (int64_t i = 0; i < some; i++) {
      const float scaled = x[begin + i] * inverse;
      const float above = scaled > -1.f ? scaled : -1.f;  // this makes NaN −1 as well
      const float inside = above < 1.f ? above : 1.f;
      bins[i] = static_cast<int32_t>(std::fma((inside + 1.f) * 0.5f, 65535.f, 0.5f));
    }
    for (int64_t i = 0; i < some; i++) codes[begin + i] = code_of_bin[bins[i]];
  }
  return absmax;
}

inline bool is_quantized(const Tensor& t) { return t.dtype == DType::u4 || t.dtype == DType::i8; }

// The logarithm to base 2 of a block's size.
inline int log2_of_block(float size) {
  const auto whole = static_cast<int64_t>(size >= 32 && size <= 65536 ? size : 0);  // 0 for NaN as well
  const bool is_power = std::has_single_bit(static_cast<uint64_t>(whole));
  expect(static_cast<float>(whole) == size && is_power, "a block size that is a power of two from 32 to 65536");
  return std::countr_zero(static_cast<uint64_t>(whole));
}

// How many blocks n elements are.
inline int64_t pieces_of(int64_t n, int log2) { return (n + (int64_t{1} << log2) - 1) >> log2; }

inline Codes Codes::of(const Tensor& weight, const Tensor& absmax, const Tensor& constants) {
  expect(weight.rank == 2 && is_quantized(weight) && absmax, "a matrix of u4 or i8 with its absmax");
  Codes codes{.data = static_cast<const uint8_t*>(weight.data), .wide = weight.dtype == DType::i8, .columns = weight.columns()};
  if (codes.wide) {
    expect_vector(absmax, DType::f32, weight.rows(), "an f32 absmax for each row");
    codes.scales = f32_at(absmax, 0);
    return codes;
  }
  expect(constants && constants.dtype == DType::f32 && constants.size() >= four_bit::kSize, "constants of u4 codes");
  const float* numbers = f32_at(constants, 0);
  codes.block = log2_of_block(numbers[four_bit::kBlockSize]);
  codes.values = numbers + four_bit::kValues;
  const int64_t blocks = pieces_of(weight.size(), codes.block);
  if (absmax.dtype == DType::f32) {
    expect_vector(absmax, DType::f32, blocks, "an absmax for each block");
    codes.scales = f32_at(absmax, 0);
    return codes;
  }
  expect_vector(absmax, DType::u8, blocks, "an absmax for each block");
  expect(constants.size() >= four_bit::kNestedSize, "constants of nested codes");
  codes.scale_codes = static_cast<const uint8_t*>(absmax.data);
  codes.nested_block = log2_of_block(numbers[four_bit::kNestedBlockSize]);
  codes.offset = numbers[four_bit::kOffset];
  codes.nested_values = numbers + four_bit::kNestedValues;
  codes.nested_absmax = numbers + four_bit::kNestedAbsmax;
  expect(constants.size() == four_bit::kNestedSize + pieces_of(blocks, codes.nested_block), "a nested absmax for each block of absmax");
  return codes;
}

}  // namespace lowrank::LOWRANK_ISA
