// The gradients of a low-rank branch, dA = dhᵀ·x and dB = dyᵀ·h: narrow products over all rows, which are bound by reading x and dy once.
//
// A task has some columns of x or dy and a chunk of their rows, which it reads in order, a block of rows at a time, while its sums stay in
// the nearest caches. Whole panels of f32 without a mask are read where they lie. Everything else is packed, kColumns columns of a block at
// a time. The chunks do not depend on the number of threads.
#include <algorithm>

#include "panel_product.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// The most columns of a task, the rows of a block, the least rows of a chunk and the most chunks.
constexpr int64_t kTaskColumns = 1024, kBlockRows = 32, kChunkRows = 512, kMostChunks = 8;
// The sums of one rank begin so far behind those of the one before. It is no power of two, since the sums of a tile would share cache sets
// then.
constexpr int64_t kStride = kTaskColumns + kColumns;
// The ranks of one product of panels: ranks are multiples of 8 or 4 more often than of 12 or 6.
constexpr int kRanks = kManyRegisters ? 8 : 4;

// One of the two products, narrowᵀ · wide.
struct Product {
  const Tensor* narrow;  // [T, rank]
  Factor wide;           // [T → columns]
  const Tensor* out;
  bool transposed;       // whether out is [columns, rank] instead of [rank, columns]
  float alpha;
  int64_t columns;
  Form form;
  float* sums = nullptr;  // those of all tasks, chunk by chunk, each [rank in whole products][kStride]

  int64_t rank() const { return narrow->columns(); }
  int64_t parts() const { return (columns + kTaskColumns - 1) / kTaskColumns; }
  int64_t first(int64_t part) const { return part * kTaskColumns; }
  int64_t width(int64_t part) const { return std::min(kTaskColumns, columns - first(part)); }
  int64_t task_sums() const { return round_up(rank(), in_tiles(form) ? kTile : kRanks) * kStride; }
};

// Adds the rows [begin, end) of one task to its sums, which begin at zero.
template <int Ranks>
void add_rows(const Product& p, int64_t part, int64_t begin, int64_t end, float* sums, Pool& pool, int thread) {
  const int64_t column = p.first(part), columns = p.width(part), rank = p.rank();
  const int64_t products = round_up(rank, Ranks) / Ranks, steps = steps_of(p.form, kBlockRows);
  auto* left = static_cast<uint32_t*>(pool.scratch(thread, Slot::own, (products * Ranks + kColumns) * steps * 4));
  uint32_t* packed = left + products * Ranks * steps;
  const bool in_place = p.form == Form::exact && !p.wide.mask && p.wide.tensor->dtype == DType::f32;
  [[maybe_unused]] const TileRegisters registers;
  std::fill_n(sums, p.task_sums(), 0.f);
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, end - row);
    for (int64_t i = 0; i < products; i++)
      pack_left_panel<Ranks>(Factor::left(*p.narrow, true).at(i * Ranks, row), std::min<int64_t>(Ranks, rank - i * Ranks), rows, p.form,
                             left + i * Ranks * steps);
    for (int64_t at = 0; at < columns; at += kColumns) {
      const Factor panel = p.wide.at(column + at, row);
      const int64_t valid = std::min<int64_t>(kColumns, columns - at);
      const bool as_it_lies = in_place && valid == kColumns;
      if (!as_it_lies) pack_panel(panel, valid, kColumns, rows, p.form, packed);
      const auto* right = as_it_lies ? reinterpret_cast<const uint32_t*>(f32_at(*panel.tensor, panel.element(0, 0))) : packed;
      for (int64_t i = 0; i < products; i++)
        tile<true, Ranks, 2>(p.form, left + i * Ranks * steps, right, steps_of(p.form, rows), sums + i * Ranks * kStride + at, kStride,
                             as_it_lies ? panel.stride : kColumns);
    }
  }
}

// Adds up the sums of all chunks for a part of the columns and stores the results.
void store_part(const Product& p, int64_t part, int64_t chunks) {
  const int64_t rank = p.rank(), column = p.first(part), width = p.width(part);
  float* total = p.sums + part * p.task_sums();
  for (int64_t c = 1; c < chunks; c++) {
    const float* sums = total + c * p.parts() * p.task_sums();
    for (int64_t i = 0; i < rank * kStride; i++) total[i] += sums[i];
  }
  for (int64_t i = 0; i < rank * kStride; i++) total[i] *= p.alpha;
  if (!p.transposed) {
    for (int64_t r = 0; r < rank; r++) copy({total, DType::f32}, r * kStride, *p.out, r * p.columns + column, width);
  } else if (p.out->dtype == DType::f32) {
    for (int64_t i = 0; i < width; i++)
      for (int64_t r = 0; r < rank; r++) *f32_at(*p.out, (column + i) * rank + r) = total[r * kStride + i];
  } else {
    for (int64_t i = 0; i < width; i++)
      for (int64_t r = 0; r < rank; r++) *half_at(*p.out, (column + i) * rank + r) = to_bf16(total[r * kStride + i]);
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
  const float scale = inputs.mask ? static_cast<float>(Attributes(call.attributes).mask_scale) : 1.f;
  // Products of f32 do not go by parts here: taking the numbers apart would cost more than the products.
  const auto form = [](const Tensor& a, const Tensor& b) { return form_of(a, b) == kWide ? Form::exact : kNarrow; };
  Product products[] = {{&dh, inputs, &dA, false, scale, in, form(dh, x)},
                        {&h, Factor::right(dy, false), &dB, true, 1.f, out, form(h, dy)}};

  const int64_t chunk = std::max(kChunkRows, round_up(rows, kMostChunks * kBlockRows) / kMostChunks);
  const int64_t chunks = std::max<int64_t>(1, (rows + chunk - 1) / chunk);
  Product &a = products[0], &b = products[1];
  const int64_t sums = a.parts() * a.task_sums();
  a.sums = static_cast<float*>(pool.scratch(0, Slot::sums, chunks * (sums + b.parts() * b.task_sums()) * sizeof(float)));
  b.sums = a.sums + chunks * sums;
  const auto part_of = [&](int64_t i, const auto& body) { i < a.parts() ? body(a, i) : body(b, i - a.parts()); };
  const int64_t parts = a.parts() + b.parts();
  pool.each(chunks * parts, [&](int64_t task, int thread) {
    part_of(task % parts, [&](const Product& p, int64_t part) {
      const int64_t i = task / parts, begin = std::min(i * chunk, rows), end = std::min(begin + chunk, rows);
      float* to = p.sums + (i * p.parts() + part) * p.task_sums();
      if (in_tiles(p.form)) add_rows<kTile>(p, part, begin, end, to, pool, thread);
      else add_rows<kRanks>(p, part, begin, end, to, pool, thread);
    });
  });
  pool.each(parts, [&](int64_t task, int) {
    part_of(task, [&](const Product& p, int64_t part) { store_part(p, part, chunks); });
  });
}

}  // namespace lowrank::LOWRANK_ISA
