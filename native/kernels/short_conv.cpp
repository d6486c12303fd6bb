// Causal convolutions of few taps, of each column by itself.
#include <algorithm>
#include <vector>

#include "blocks.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// An example's rows [begin, end), how many inputs came before them, and where its keys begin.
struct Example {
  int64_t begin, end, past, key;
};

std::vector<Example> examples_of(const Tensor& segments, int64_t rows) {
  expect(segments.dtype == DType::i32 && segments.rank == 2 && segments.shape[1] == 4, "segments [S, 4] i32");
  const auto* s = static_cast<const int32_t*>(segments.data);
  std::vector<Example> examples;
  int64_t next = 0;
  for (int64_t i = 0; i < segments.shape[0]; i++, s += 4) {
    const int64_t past = int64_t{s[3]} - s[2] - (int64_t{s[1]} - s[0]);
    if (s[0] != next || s[1] < s[0] || s[1] > rows || s[2] < 0 || past < 0)
      fail("segment %lld (%d, %d, %d, %d) does not fit %lld rows", (long long)i, s[0], s[1], s[2], s[3], (long long)rows);
    examples.push_back({s[0], s[1], past, s[2]});
    next = s[1];
  }
  expect(next == rows, "segments that cover all rows");
  return examples;
}

// For each row the first and the end of its example.
struct Bounds {
  int64_t begin, end;
};
std::vector<Bounds> bounds_of(const std::vector<Example>& examples, int64_t rows) {
  std::vector<Bounds> bounds(rows);
  for (const Example& e : examples) std::fill(bounds.begin() + e.begin, bounds.begin() + e.end, Bounds{e.begin, e.end});
  return bounds;
}

// weight [C, K] as K rows of f32, one for each tap.
std::vector<float> taps_of(const Tensor& weight) {
  const int64_t columns = weight.shape[0], taps = weight.shape[1];
  std::vector<float> rows(columns * taps), line(taps);
  for (int64_t c = 0; c < columns; c++) {
    const float* w = load(weight, c * taps, taps, line.data());
    for (int64_t j = 0; j < taps; j++) rows[j * columns + c] = w[j];
  }
  return rows;
}

void expect_operands(const Tensor& x, const Tensor& weight, const Tensor& y) {
  expect_floats(x, weight, y);
  expect(x.rank == 2 && weight.rank == 2 && weight.shape[0] == x.shape[1] && weight.shape[1] > 0, "x [T, C] and weight [C, K]");
  expect(same_shape(x, y), "operands of x's shape");
}

// sum[i] += w[i] · x[at + i].
inline void add_product(const float* w, const Tensor& x, int64_t at, int64_t n, float* sum) {
  alignas(64) float buffer[kBlock];
  const float* row = load(x, at, n, buffer);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) sum[i] += w[i] * row[i];
}

// Brings the last inputs of an example's slot up to date.
void remember(const Tensor& state, int64_t first, int64_t kept, const Example& e, const Tensor& x) {
  const int64_t columns = x.shape[1], added = std::min(kept, e.end - e.begin);
  const int64_t bytes = columns * bytes_per_element(state.dtype);
  char* row = static_cast<char*>(state.data) + first * bytes;
  if (e.past > 0) std::memmove(row, row + added * bytes, (kept - added) * bytes);
  else std::memset(row, 0, (kept - added) * bytes);
  copy(x, (e.end - added) * columns, state, (first + kept - added) * columns, added * columns);
}

}  // namespace

void short_conv(const Call& call, Pool& pool) {
  using namespace short_conv_op;
  const Tensor &x = call.inputs[i_x], &weight = call.inputs[i_weight], &y = call.outputs[o_y], &state = call.outputs[o_state];
  expect_operands(x, weight, y);
  const int64_t rows = x.shape[0], columns = x.shape[1], taps = weight.shape[1], kept = taps - 1;
  const std::vector<Example> examples = examples_of(call.inputs[i_segments], rows);
  const int64_t capacity = Attributes(call.attributes).capacity;
  if (state) {
    expect(is_float(state) && state.rank == 2 && state.shape[1] == columns && capacity > 0, "state [slots · (K − 1), C] float");
    for (const Example& e : examples)
      expect(e.key % capacity == 0 && (e.key / capacity + 1) * kept <= state.shape[0], "segments whose keys begin where a slot does");
  }
  const std::vector<float> w = taps_of(weight);
  const std::vector<Bounds> bounds = bounds_of(examples, rows);
  // Where in the state an example's earlier inputs are, by its first row; −1 for none.
  std::vector<int64_t> earlier(rows, -1);
  if (state)
    for (const Example& e : examples)
      if (e.past > 0 && e.begin < e.end) earlier[e.begin] = e.key / capacity * kept;
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock];
    for (int64_t t = begin; t < end; t++)
      for (int64_t at = 0; at < columns; at += kBlock) {
        const int64_t n = std::min(kBlock, columns - at), first = bounds[t].begin;
        float* sums = target(y, t * columns + at, buffer);
        std::memset(sums, 0, n * sizeof(float));
        for (int64_t j = 0; j < taps; j++) {
          const int64_t from = t - kept + j, place = earlier[first] + kept + from - first;
          if (from >= first) add_product(&w[j * columns + at], x, from * columns + at, n, sums);
          else if (earlier[first] >= 0) add_product(&w[j * columns + at], state, place * columns + at, n, sums);
        }
        store(y, t * columns + at, n, sums);
      }
  });
  if (state)
    for (const Example& e : examples) remember(state, e.key / capacity * kept, kept, e, x);
}

void short_conv_backward(const Call& call, Pool& pool) {
  using namespace short_conv_backward_op;
  const Tensor &x = call.inputs[i_x], &weight = call.inputs[i_weight], &dy = call.inputs[i_dy];
  const Tensor &dx = call.outputs[o_dx], &dweight = call.outputs[o_dweight];
  expect_operands(x, weight, dx);
  expect(is_float(dy) && same_shape(x, dy), "dy of x's shape");
  if (dweight) expect(dweight.dtype == DType::f32 && same_shape(weight, dweight), "dweight of weight's shape, f32");
  const int64_t rows = x.shape[0], columns = x.shape[1], taps = weight.shape[1], kept = taps - 1;
  const std::vector<float> w = taps_of(weight);
  const std::vector<Bounds> bounds = bounds_of(examples_of(call.inputs[i_segments], rows), rows);
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock];
    for (int64_t t = begin; t < end; t++)
      for (int64_t at = 0; at < columns; at += kBlock) {
        const int64_t n = std::min(kBlock, columns - at);
        float* sums = target(dx, t * columns + at, buffer);
        std::memset(sums, 0, n * sizeof(float));
        for (int64_t j = 0; j < taps; j++)
          if (t + kept - j < bounds[t].end) add_product(&w[j * columns + at], dy, (t + kept - j) * columns + at, n, sums);
        store(dx, t * columns + at, n, sums);
      }
  });
  if (!dweight) return;
  // Each piece has columns of its own, whose sums go through the rows in their order.
  pool.ranges(columns, 64, [&](int64_t begin, int64_t end, int) {
    const int64_t n = end - begin;
    for (int64_t j = 0; j < taps; j++) {
      float sums[64] = {}, buffer[64];
      for (int64_t t = 0; t < rows; t++) {
        const int64_t from = t - kept + j;
        if (from >= bounds[t].begin) add_product(load(dy, t * columns + begin, n, buffer), x, from * columns + begin, n, sums);
      }
      for (int64_t i = 0; i < n; i++) *f32_at(dweight, (begin + i) * taps + j) += sums[i];
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA
