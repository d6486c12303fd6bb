// The product of two packed panels, which matrix products and attention are made of: a panel of kRows lanes times one of kColumns lanes is
// a tile, whose sums stay in registers.
#pragma once
#include "pack.h"

namespace lowrank::LOWRANK_ISA {

// Marks a function that has the loop of a tile and little else. With more code around the loop GCC 12 has not enough of Arm's registers for
// the sums.
#if defined(__aarch64__)
#define LOWRANK_TILE [[gnu::noinline]]
#else
#define LOWRANK_TILE inline
#endif

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
// `multiply` for pairs on Arm, where one instruction adds the products of four of K of two rows and two columns to their 2 × 2 sums. (With
// the compiler's function for it GCC 12 would copy the sums.)
template <int Rows, int Vectors, int64_t StepStride>
[[gnu::always_inline]] inline void multiply_fours(const uint32_t* __restrict a, const uint32_t* __restrict b, int64_t steps,
                                                  Lanes (&sums)[Rows][Vectors]) {
  static_assert(Rows % 4 == 0);
  Lanes squares[Rows / 2][2 * Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r += 2)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      squares[r / 2][2 * v] = shuffle<0, 1, 4, 5>(sums[r][v], sums[r + 1][v]);
      squares[r / 2][2 * v + 1] = shuffle<2, 3, 6, 7>(sums[r][v], sums[r + 1][v]);
    }
  for (; steps > 0; steps -= 2) {
    Lanes columns[2 * Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < 2 * Vectors; v++) columns[v] = lanes_at(b + 4 * v);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r += 4) {
      const Lanes rows[] = {lanes_at(a + 2 * r), lanes_at(a + 2 * r + 4)};
#pragma GCC unroll 8
      for (int v = 0; v < 4 * Vectors; v++) {
        Lanes square = squares[r / 2 + v % 2][v / 2];
        asm("bfmmla %0.4s, %1.8h, %2.8h" : "+w"(square) : "w"(rows[v % 2]), "w"(columns[v / 2]));
        squares[r / 2 + v % 2][v / 2] = square;
      }
    }
    a += 2 * StepStride;
    b += 2 * Vectors * kLanes;
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r += 2)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      sums[r][v] = shuffle<0, 1, 4, 5>(squares[r / 2][2 * v], squares[r / 2][2 * v + 1]);
      sums[r + 1][v] = shuffle<2, 3, 6, 7>(squares[r / 2][2 * v], squares[r / 2][2 * v + 1]);
    }
}
#endif

// sums[row][column] += Σ over K of a panel of Rows lanes times one of Vectors · kLanes lanes. Either may also be a matrix that was not
// packed: unit (row, step) of the first is a[row · RowStride + step · StepStride], and the steps of the second are `right_step` units
// apart.
template <bool Pairs, int Rows, int Vectors, int64_t RowStride = 1, int64_t StepStride = Rows>
[[gnu::always_inline]] inline void multiply(const uint32_t* __restrict a, const uint32_t* __restrict b, int64_t steps,
                                            Lanes (&sums)[Rows][Vectors], int64_t right_step = Vectors * kLanes) {
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  static_assert(!Pairs || RowStride == 1);
  if constexpr (Pairs) return multiply_fours<Rows, Vectors, StepStride>(a, b, steps, sums);
#endif
  for (; steps > 0; steps--) {
    Lanes columns[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) columns[v] = lanes_at(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
#if defined(__AVX512BF16__)
      if constexpr (Pairs) {
        const auto row = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * RowStride]));
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; v++) sums[r][v] = (Lanes)_mm512_dpbf16_ps((__m512)sums[r][v], row, (__m512bh)columns[v]);
        continue;
      }
#endif
#if defined(__aarch64__)
      // Arm has an instruction that multiplies by one number of a vector.
      if constexpr (RowStride == 1) {
        const Lanes rows = lanes_at(a + r / kLanes * kLanes);
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; v++) sums[r][v] += rows[r % kLanes] * columns[v];
        continue;
      }
#endif
      const float row = std::bit_cast<float>(a[r * RowStride]);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; v++) sums[r][v] += row * columns[v];
    }
    a += StepStride;
    b += right_step;
  }
}

#if defined(__AMX_BF16__)
// Adds the product of two packed panels of so many steps to the sums in tiles. (`near` matters little for parts, whose loop waits for the
// tile unit.)
template <int Vectors>
inline void add_panels(Form form, const uint32_t* left, const uint32_t* right, int64_t steps, Near near = Near::next_right,
                       Ahead far = {}) {
  if (form == Form::parts) add_parts<Vectors>(left, right, steps / (kParts * kChunk), far);
  else add_chunks<Vectors>(left, right, steps / kChunk, kPanels<Vectors>, near, far);
}
#endif

// The sums of a tile before its first step: those in memory, whose rows are `stride` numbers apart, or zero.
template <bool Resumed, int Rows, int Vectors>
[[gnu::always_inline]] inline void begin_sums(const float* from, int64_t stride, Lanes (&sums)[Rows][Vectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      sums[r][v] = Lanes{};
      if constexpr (Resumed) sums[r][v] = lanes_at(from + r * stride + v * kLanes);
    }
}

// Puts the sums of a tile into memory as they are.
template <int Rows, int Vectors>
[[gnu::always_inline]] inline void keep_sums(float* to, int64_t stride, const Lanes (&sums)[Rows][Vectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) put_lanes(to + r * stride + v * kLanes, sums[r][v]);
}

template <bool Pairs, bool Accumulate, int Rows, int Vectors, int64_t RowStride, int64_t StepStride>
LOWRANK_TILE void tile_of(const uint32_t* a, const uint32_t* b, int64_t steps, float* __restrict out, int64_t stride, int64_t right_step) {
  Lanes sums[Rows][Vectors];
  begin_sums<Accumulate>(out, stride, sums);
  multiply<Pairs, Rows, Vectors, RowStride, StepStride>(a, b, steps, sums, right_step);
  keep_sums(out, stride, sums);
}

// Puts the product of two panels into `out` [Rows][Vectors · kLanes], whose rows are `stride` apart; with Accumulate it is added to what is
// there.
template <bool Accumulate, int Rows, int Vectors, int64_t RowStride = 1, int64_t StepStride = Rows>
inline void tile(Form form, const uint32_t* a, const uint32_t* b, int64_t steps, float* __restrict out, int64_t stride,
                 int64_t right_step = Vectors * kLanes) {
#if defined(__AMX_BF16__)
  if constexpr (Rows % kTile == 0) {
    static_assert(Rows == kTile || Rows == kTileRows);
    if constexpr (Accumulate) load_sums<Vectors, Rows>(out, stride);
    else clear_sums<Vectors, Rows>();
    const Layout layout = StepStride == Rows ? kPanels<Vectors, Rows> : Layout{RowStride, kChunk, Vectors * kLanes};
    add_chunks<Vectors, Rows>(a, b, steps / kChunk, layout);
    return store_sums<Vectors, Rows>(out, stride);
  }
#endif
  // Where rows lie apart, no steps lie together.
  if constexpr (kHasPairs && (RowStride == 1 || kTogether == 1)) {
    if (form == Form::pairs)
      return tile_of<true, Accumulate, Rows, Vectors, RowStride, StepStride>(a, b, steps, out, stride, right_step);
  }
  tile_of<false, Accumulate, Rows, Vectors, RowStride, StepStride>(a, b, steps, out, stride, right_step);
}

// The form in which a product of these dtypes is computed. A quantised weight is the second factor.
inline Form form_of(const Tensor& a, const Tensor& b) {
  if (a.dtype == DType::f32 && (b.dtype == DType::f32 || is_quantized(b))) return kWide;
  return kNarrow;
}

inline void expect_matrix(const Tensor& t, int64_t rows, int64_t columns, const char* name) {
  expect_floats(t);
  if (t.rank != 2 || t.shape[0] != rows || t.shape[1] != columns)
    fail("%s is not [%lld, %lld]", name, static_cast<long long>(rows), static_cast<long long>(columns));
}

// The mask over a matrix [rows, columns] that an operand has; one without words where the operand is absent.
inline Mask expect_mask(const Tensor& words, int64_t rows, int64_t columns) {
  const int64_t stride = (columns + 31) / 32;
  if (words) expect_vector(words, DType::i32, rows * stride, "a mask of one bit per element, each row in whole words");
  return {static_cast<const uint32_t*>(words.data), stride};
}

}  // namespace lowrank::LOWRANK_ISA
