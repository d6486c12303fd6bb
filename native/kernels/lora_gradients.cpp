// The gradients of a low-rank branch: dA = dhᵀ·x and dB = dyᵀ·h, narrow products over all rows, bound by reading x and dy once.
//
// The rows are cut into chunks that do not depend on the number of threads. A chunk's sums stand in scratch; x passes by in blocks of rows,
// from which panel after panel of columns is packed into the first-level cache, so that memory is read nearly in order.
#include <algorithm>

#include "gemm.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// Rows of a block, and rows and number of the chunks.
constexpr int64_t kBlockRows = 128, kChunkRows = 256, kMostChunks = 8;
// Of a tile: ranks are multiples of 8 more often than of 12.
constexpr int kRankRows = kLanes == 16 ? 8 : kRows;

// narrowᵀ · wide.
struct Product {
  const Tensor* narrow;  // [T, rank]
  Factor wide;           // [T → columns]
  const Tensor* out;
  bool transposed;       // out is [columns, rank], else [rank, columns]
  float alpha;
  int64_t columns;
  Form form;
  float* sums = nullptr;  // of all chunks, [rank][columns], both in whole tiles

  int64_t padded() const { return round_up(columns, kColumns); }
};

template <int Rows>
void add_chunk(const Product& p, int64_t rank, int64_t begin, int64_t end, float* sums, Pool& pool, int thread) {
  const int64_t tiles = round_up(rank, Rows) / Rows, steps = steps_of(p.form, kBlockRows);
  auto* left = static_cast<uint32_t*>(pool.scratch(thread, 1, (tiles * Rows + kColumns) * steps * 4));
  uint32_t* right = left + tiles * Rows * steps;
  [[maybe_unused]] const TileRegisters registers;
  std::fill_n(sums, tiles * Rows * p.padded(), 0.f);
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, end - row);
    for (int64_t i = 0; i < tiles; i++)
      pack_left_panel<Rows>(Factor::left(*p.narrow, true).at(i * Rows, row), std::min<int64_t>(Rows, rank - i * Rows), rows, p.form,
                            left + i * Rows * steps);
    for (int64_t column = 0; column < p.columns; column += kColumns) {
      pack_panel(p.wide.at(column, row), std::min<int64_t>(kColumns, p.columns - column), kColumns, rows, p.form, right);
      prefetch_rows(p.wide.at(column + kColumns, row), 0, rows, std::min<int64_t>(kColumns, p.columns - column - kColumns));
      for (int64_t i = 0; i < tiles; i++)
        tile<true, Rows, 2>(p.form, left + i * Rows * steps, right, steps_of(p.form, rows), sums + i * Rows * p.padded() + column, p.padded());
    }
  }
}

// Adds up the chunks' sums of columns [begin, end) and brings them home.
void store_sums(const Product& p, int64_t rank, int64_t chunks, int64_t stride, int64_t begin, int64_t end) {
  alignas(64) float total[kBlock];
  for (int64_t r = 0; r < rank; r++)
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = std::min(kBlock, end - at);
      std::fill_n(total, n, 0.f);
      for (int64_t c = 0; c < chunks; c++) {
        const float* sums = p.sums + c * stride + r * p.padded() + at;
        for (int64_t i = 0; i < n; i++) total[i] += sums[i];
      }
      for (int64_t i = 0; i < n; i++) total[i] *= p.alpha;
      if (!p.transposed) {
        copy({total, DType::f32}, 0, *p.out, r * p.columns + at, n);
      } else if (p.out->dtype == DType::f32) {
        for (int64_t i = 0; i < n; i++) *f32_at(*p.out, (at + i) * rank + r) = total[i];
      } else {
        for (int64_t i = 0; i < n; i++) *half_at(*p.out, (at + i) * rank + r) = to_bf16(total[i]);
      }
    }
}

}  // namespace

void lora_gradients(const Call& call, Pool& pool) {
  using namespace lora_gradients_op;
  const Tensor &x = call.inputs[i_x], &h = call.inputs[i_h], &dy = call.inputs[i_dy], &dh = call.inputs[i_dh];
  const Tensor &dA = call.outputs[o_d_a], &dB = call.outputs[o_d_b];
  const int64_t rows = x.rows(), in = x.columns(), out = dy.columns(), rank = h.columns();
  expect_matrix(x, rows, in, "x");
  expect_matrix(h, rows, rank, "h");
  expect_matrix(dy, rows, out, "dy");
  expect_matrix(dh, rows, rank, "dh");
  expect_matrix(dA, rank, in, "dA");
  expect_matrix(dB, out, rank, "dB");
  Factor inputs = Factor::right(x, false);
  inputs.mask = expect_mask(call.inputs[i_mask], rows, in);
  const float scale = inputs.mask ? static_cast<float>(call.attributes[a_mask_scale]) : 1.f;
  Product products[] = {{&dh, inputs, &dA, false, scale, in, form_of(dh, x)}, {&h, Factor::right(dy, false), &dB, true, 1.f, out, form_of(h, dy)}};

  const int64_t chunk = std::max(kChunkRows, round_up(rows, kMostChunks * kBlockRows) / kMostChunks), chunks = (rows + chunk - 1) / chunk;
  const int64_t height = round_up(rank, kHasTiles ? kTileRows : kRankRows), stride = height * (products[0].padded() + products[1].padded());
  products[0].sums = static_cast<float*>(pool.scratch(0, 4, chunks * stride * sizeof(float)));
  products[1].sums = products[0].sums + height * products[0].padded();
  pool.each(2 * chunks, [&](int64_t task, int thread) {
    const Product& p = products[task % 2];
    const int64_t begin = task / 2 * chunk;
    const int64_t end = std::min(begin + chunk, rows);
    float* sums = p.sums + task / 2 * stride;
    if (in_tiles(p.form)) add_chunk<kTileRows>(p, rank, begin, end, sums, pool, thread);
    else add_chunk<kRankRows>(p, rank, begin, end, sums, pool, thread);
  });
  for (const Product& p : products)
    pool.ranges(p.columns, kColumns * 4, [&](int64_t begin, int64_t end, int) { store_sums(p, rank, chunks, stride, begin, end); });
}

}  // namespace lowrank::LOWRANK_ISA
