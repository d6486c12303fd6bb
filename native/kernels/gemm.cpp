// matmul: out [M,N] = alpha · op(a) · op(b) (+ out).
//
// All of `a` is packed once, in panels shared by the threads; each panel of `b` is packed by the thread that uses it and then meets every
// panel of `a`, so that it stays in the second-level cache while `a` streams by (about 2 bytes per cycle). K is never split: a tile's
// sums stay in registers to the end, and the result does not depend on the number of threads.
#include <algorithm>

#include "gemm.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// Rows of `a` packed at a time: bounds the shared panels (2048 × 8192 bf16 is 32 MiB) at the price of packing `b` once for each.
constexpr int64_t kRowBlock = 2048;
// Products with fewer rows than this, against rows of K, are bound by reading `b` once: no packing.
constexpr int64_t kFewRows = 8;

struct Product {
  Factor a, b;
  const Tensor* out;
  int64_t m, n, k;
  Form form;
  float alpha;
  bool accumulate;
};

// Brings `columns` sums home: alpha, accumulation, rounding.
void store_row(const Product& p, int64_t row, int64_t column, int64_t columns, const float* __restrict sums) {
  const int64_t at = row * p.n + column;
  alignas(64) float buffer[2][kColumns];
  const float* old = p.accumulate ? load(*p.out, at, columns, buffer[0]) : nullptr;
  float* out = target(*p.out, at, buffer[1]);
  if (old)
    for (int64_t i = 0; i < columns; i++) out[i] = old[i] + p.alpha * sums[i];
  else
    for (int64_t i = 0; i < columns; i++) out[i] = p.alpha * sums[i];
  store(*p.out, at, columns, out);
}

#if defined(__AVX512F__)
// The same from registers: the first `rows` rows of a tile whose first sum belongs to element `at`.
template <int Rows, int Vectors>
inline void store_tile(const Product& p, int64_t at, int64_t rows, int64_t columns, const Lanes (&sums)[Rows][Vectors]) {
  const __m512 alpha = _mm512_set1_ps(p.alpha);
  const bool narrow = p.out->dtype == DType::bf16;
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) {
    if (r >= rows) return;
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      const __mmask16 mask = first(columns - v * kLanes);
      const int64_t element = at + r * p.n + v * kLanes;
      __m512 x = _mm512_mul_ps((__m512)sums[r][v], alpha);
      if (p.accumulate) x = _mm512_add_ps(load_lanes(*p.out, element, mask), x);
      if (narrow) _mm256_mask_storeu_epi16(half_at(*p.out, element), mask, round_lanes(x));
      else _mm512_mask_storeu_ps(f32_at(*p.out, element), mask, x);
    }
  }
}
#endif

template <int Rows, int Vectors>
void multiply_panel(const Product& p, const uint32_t* a, const uint32_t* b, int64_t row0, int64_t rows, int64_t column, int64_t columns) {
  const int64_t steps = steps_of(p.form, p.k);
  for (int64_t row = 0; row < rows; row += Rows, a += Rows * steps) {
#if defined(__AVX512F__)
    if (p.out->dtype != DType::f16) {
      Lanes sums[Rows][Vectors] = {};
      if (kHasPairs && p.form == Form::pairs) multiply<kHasPairs, Rows, Vectors>(a, b, steps, sums);
      else multiply<false, Rows, Vectors>(a, b, steps, sums);
      store_tile<Rows, Vectors>(p, (row0 + row) * p.n + column, rows - row, columns, sums);
      continue;
    }
#endif
    constexpr int width = Vectors * kLanes;
    alignas(64) float sums[Rows * width];
    tile<false, Rows, Vectors>(p.form, a, b, steps, sums, width);
    for (int64_t r = 0; r < Rows && row + r < rows; r++) store_row(p, row0 + row + r, column, columns, sums + r * width);
  }
}

// The whole product with tiles of Rows × Vectors · kLanes.
template <int Rows, int Vectors>
void multiply_tiles(const Product& p, Pool& pool) {
  constexpr int width = Vectors * kLanes;
  const int64_t steps = steps_of(p.form, p.k);
  const int64_t columns = (p.n + width - 1) / width;
  for (int64_t row0 = 0; row0 < p.m; row0 += kRowBlock) {
    const int64_t rows = p.m - row0 < kRowBlock ? p.m - row0 : kRowBlock;
    const int64_t panels = (rows + Rows - 1) / Rows;
    auto* packed = static_cast<uint32_t*>(pool.scratch(0, 0, panels * Rows * steps * 4));
    pool.ranges(panels, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t valid = rows - i * Rows < Rows ? rows - i * Rows : Rows;
        pack_panel(p.a.at(row0 + i * Rows, 0), valid, Rows, p.k, p.form, packed + i * Rows * steps);
      }
    });
    // Where there are few panels of `b`, the rows are divided too, and a panel is packed by each that needs it.
    const int64_t wanted = 4 * pool.threads();
    const int64_t parts = columns >= wanted ? 1 : std::min(panels, (wanted + columns - 1) / columns);
    pool.each(columns * parts, [&](int64_t task, int thread) {
      const int64_t column = task / parts * width, part = task % parts;
      const int64_t valid = p.n - column < width ? p.n - column : width;
      const int64_t begin = panels * part / parts, end = panels * (part + 1) / parts;
      auto* b = static_cast<uint32_t*>(pool.scratch(thread, 1, width * steps * 4));
      pack_panel(p.b.at(column, 0), valid, width, p.k, p.form, b);
      const int64_t first = begin * Rows, last = std::min(rows, end * Rows);
      multiply_panel<Rows, Vectors>(p, packed + begin * Rows * steps, b, row0 + first, last - first, column, valid);
    });
  }
}

#if defined(__AVX512F__)
// Products of `rows` ≤ 4 rows with every row of b [N,K], read once from memory: sums along K.
template <bool Pairs, int Rows>
void few_rows(const Product& p, const uint32_t* a, int64_t stride, int64_t begin, int64_t end, int64_t row0) {
  const Tensor& b = *p.b.tensor;
  const int64_t per_load = Pairs ? 32 : 16;
  for (int64_t column = begin; column < end; column++) {
    __m512 sums[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; r++) sums[r] = _mm512_setzero_ps();
    for (int64_t k = 0, unit = 0; k < p.k; k += per_load, unit += 16) {
      const __m512i units = load_units(b, p.b.begin + column * p.b.lane_stride + k, p.k - k, p.form);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; r++) {
        const __m512i row = _mm512_loadu_si512(a + r * stride + unit);
#if defined(__AVX512BF16__)
        if constexpr (Pairs) {
          sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)row, (__m512bh)units);
          continue;
        }
#endif
        sums[r] = _mm512_fmadd_ps(_mm512_castsi512_ps(row), _mm512_castsi512_ps(units), sums[r]);
      }
    }
    for (int r = 0; r < Rows; r++) {
      const float sum = _mm512_reduce_add_ps(sums[r]);
      store_row(p, row0 + r, column, 1, &sum);
    }
  }
}

void multiply_few_rows(const Product& p, Pool& pool) {
  const int64_t stride = (steps_of(p.form, p.k) + 15) / 16 * 16;
  auto* a = static_cast<uint32_t*>(pool.scratch(0, 0, p.m * stride * 4));
  const int64_t per_load = p.form == Form::pairs ? 32 : 16;
  for (int64_t row = 0; row < p.m; row++)
    for (int64_t k = 0, unit = 0; k < p.k; k += per_load, unit += 16)
      _mm512_storeu_si512(a + row * stride + unit, load_units(*p.a.tensor, p.a.begin + row * p.a.lane_stride + k, p.k - k, p.form));
  const int64_t grain = std::max<int64_t>(16, 65536 / std::max<int64_t>(1, p.k));
  pool.ranges(p.n, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = 0; row < p.m; row += 4) {
      const uint32_t* rows = a + row * stride;
      constexpr bool pairs = kHasPairs;
      const bool narrow = p.form == Form::pairs;
      switch (p.m - row) {
        case 1: narrow ? few_rows<pairs, 1>(p, rows, stride, begin, end, row) : few_rows<false, 1>(p, rows, stride, begin, end, row); break;
        case 2: narrow ? few_rows<pairs, 2>(p, rows, stride, begin, end, row) : few_rows<false, 2>(p, rows, stride, begin, end, row); break;
        case 3: narrow ? few_rows<pairs, 3>(p, rows, stride, begin, end, row) : few_rows<false, 3>(p, rows, stride, begin, end, row); break;
        default: narrow ? few_rows<pairs, 4>(p, rows, stride, begin, end, row) : few_rows<false, 4>(p, rows, stride, begin, end, row);
      }
    }
  });
}
#endif

template <int Vectors>
void multiply_columns(const Product& p, Pool& pool) {
#if defined(__AVX512F__)
  const auto padded = [&](int64_t rows) { return (p.m + rows - 1) / rows * rows; };
  if (p.m <= 4) return multiply_tiles<4, Vectors>(p, pool);
  if (padded(8) < padded(12) && p.m < 96) return multiply_tiles<8, Vectors>(p, pool);
#endif
  multiply_tiles<kRows, Vectors>(p, pool);
}

}  // namespace

void matmul(const Call& call, Pool& pool) {
  using namespace matmul_op;
  const Tensor &a = call.inputs[i_a], &b = call.inputs[i_b], &out = call.outputs[o_out];
  const bool ta = call.attributes[a_transpose_a] != 0, tb = call.attributes[a_transpose_b] != 0;
  expect_floats(a, b, out);
  expect(a.rank == 2 && b.rank == 2 && out.rank == 2, "matrices");
  const int64_t m = a.shape[ta ? 1 : 0], k = a.shape[ta ? 0 : 1], n = b.shape[tb ? 0 : 1];
  if (b.shape[tb ? 1 : 0] != k || out.shape[0] != m || out.shape[1] != n)
    fail("a [%lld, %lld], b [%lld, %lld] and out [%lld, %lld] do not fit", (long long)a.shape[0], (long long)a.shape[1],
         (long long)b.shape[0], (long long)b.shape[1], (long long)out.shape[0], (long long)out.shape[1]);
  if (m == 0 || n == 0) return;
  const Product p{
      .a = {&a, 0, ta ? 1 : a.shape[1], ta ? a.shape[1] : 1},
      .b = {&b, 0, tb ? b.shape[1] : 1, tb ? 1 : b.shape[1]},
      .out = &out,
      .m = m,
      .n = n,
      .k = k,
      .form = form_of(a.dtype, b.dtype),
      .alpha = static_cast<float>(call.attributes[a_alpha]),
      .accumulate = call.attributes[a_accumulate] != 0,
  };
#if defined(__AVX512F__)
  if (m <= kFewRows && !ta && tb) return multiply_few_rows(p, pool);
#endif
  if (n <= kLanes) multiply_columns<1>(p, pool);
  else multiply_columns<2>(p, pool);
}

}  // namespace lowrank::LOWRANK_ISA
