// How the factors of a product lie in memory while it is computed: as panels of a few rows or columns, packed for the loop that reads them.
//
// A panel holds `lanes` rows (or columns) of a factor, K-major: units[step · lanes + lane]. A unit has 4 bytes: one f32, or a pair of
// neighbouring bf16 values of K, the lower half first, so that a step covers two of K. On Arm two steps of pairs lie together, the four
// values of a lane side by side: units[(step / 2 · lanes + lane) · 2 + step % 2]. tiles.h has the layout of panels for tile registers. (The
// pairs of numbers in parts are of values that are sixteen apart, so that the halves of a chunk need no shuffling.)
#pragma once
#include "quantized.h"
#include "tiles.h"

namespace lowrank::LOWRANK_ISA {

// The rows and columns of a tile: its sums, and what is multiplied into them, fill the registers.
inline constexpr int kRows = kManyRegisters ? 12 : kLanes == 8 ? 6 : 4;
inline constexpr int kColumns = 2 * kLanes;

// Some machines have an instruction for products of pairs of bf16; on the others the factors are widened to f32.
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
inline constexpr bool kHasPairs = true;
#else
inline constexpr bool kHasPairs = false;
#endif
// How many steps of pairs lie together: as many as one instruction multiplies.
inline constexpr int kTogether = kHasPairs && kLanes == 4 ? 2 : 1;

// How a factor's numbers are packed: f32 as they are (exact), f32 rounded to bf16 (rounded), pairs of bf16 (pairs), pairs for tile
// registers (tiles), or f32 taken apart into three of bf16 for tile registers (parts, see tiles.h).
enum class Form { exact, rounded, pairs, tiles, parts };
inline constexpr Form kNarrow = kHasTiles ? Form::tiles : kHasPairs ? Form::pairs : Form::rounded;
inline constexpr Form kWide = kHasTiles ? Form::parts : Form::exact;

// Whether products of this form are computed in tile registers.
constexpr bool in_tiles(Form form) { return kHasTiles && (form == Form::tiles || form == Form::parts); }

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

inline int64_t steps_of(Form form, int64_t k) {
  if (form == Form::tiles) return round_up((k + 1) / 2, kChunk);
  if (form == Form::parts) return round_up((k + 1) / 2, kChunk) * kParts;
  return form == Form::pairs ? round_up(k, 2 * kTogether) / 2 : k;
}

// Says which elements of a matrix count, the others being 0: element [i, j] by bit j % 32 of word [i, j / 32]. Without words all count.
struct Mask {
  const uint32_t* words = nullptr;
  int64_t stride = 0;

  explicit operator bool() const { return words != nullptr; }
  // The bits of row i from column j on, the lowest first, up to the end of the word that has column j.
  uint32_t from(int64_t i, int64_t j) const { return words[i * stride + j / 32] >> j % 32; }
};

// A matrix as a factor sees it, by lanes and K: a lane is one of its rows, or else one of its columns.
struct Factor {
  const Tensor* tensor;
  bool lanes_are_rows;
  int64_t stride;           // the number of elements from one row to the next
  int64_t lane = 0, k = 0;  // where the panel in question begins
  Mask mask = {};
  const Codes* codes = nullptr;  // where it is a quantised weight

  // A matrix of a product as its left factor, whose lanes are rows unless it is transposed, or as its right one.
  static Factor left(const Tensor& m, bool transposed) { return {&m, !transposed, m.shape[1]}; }
  static Factor right(const Tensor& m, bool transposed) { return {&m, transposed, m.shape[1]}; }
  static Factor weight(const Tensor& m, bool transposed, const Codes& codes) {
    return {.tensor = &m, .lanes_are_rows = transposed, .stride = m.shape[1], .codes = codes ? &codes : nullptr};
  }

  Factor at(int64_t l, int64_t step) const { return {tensor, lanes_are_rows, stride, lane + l, k + step, mask, codes}; }
  int64_t element(int64_t l, int64_t step) const {
    return lanes_are_rows ? (lane + l) * stride + k + step : (k + step) * stride + lane + l;
  }
  // The mask's bits along memory: of lane l from this step on, or of this step from lane l on.
  template <bool Masked>
  uint32_t bits(int64_t l, int64_t step) const {
    if constexpr (!Masked) return 0xffffffffu;
    else return lanes_are_rows ? mask.from(lane + l, k + step) : mask.from(k + step, lane + l);
  }
};

}  // namespace lowrank::LOWRANK_ISA
