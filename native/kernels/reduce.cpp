// Sums, and the norms that are made of them.
#include <cmath>

#include "blocks.h"

namespace lowrank::LOWRANK_ISA {

namespace {

inline float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

// This is a function of its own because the compiler would not use vectors for the sum inside a lambda.
inline float dot(const float* a, const float* b, const float* c, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += a[i] * b[i] * c[i];
  return sum;
}

inline float row_sum(const float* a, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += a[i];
  return sum;
}

inline float centered_squares(const float* a, float mean, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += (a[i] - mean) * (a[i] - mean);
  return sum;
}

// Σ a·b·(c − mean)
inline float centered_dot(const float* a, const float* b, const float* c, float mean, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += a[i] * b[i] * (c[i] - mean);
  return sum;
}

// Adds sums over the rows to out: body(begin, end, thread, partial) adds the rows of a piece to `partial`, which is nullptr where out is
// absent.
template <class Body>
void sum_over_rows(Pool& pool, const Tensor& out, int64_t rows, int64_t columns, const Body& body) {
  if (!out) {
    return pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int thread) { body(begin, end, thread, nullptr); });
  }
  expect_vector(out, DType::f32, columns, "one f32 sum per column");
  const int64_t share = (rows + pool.threads() - 1) / pool.threads(), least = row_grain(columns);
  const int64_t grain = share > least ? share : least, pieces = (rows + grain - 1) / grain;
  auto* partials = static_cast<float*>(pool.scratch(0, Slot::sums, pieces * columns * sizeof(float)));
  pool.ranges(rows, grain, [&](int64_t begin, int64_t end, int thread) {
    float* partial = partials + begin / grain * columns;
    std::memset(partial, 0, columns * sizeof(float));
    body(begin, end, thread, partial);
  });
  float* total = f32_at(out, 0);
  for (int64_t piece = 0; piece < pieces; piece++) {
    const float* partial = partials + piece * columns;
#pragma omp simd
    for (int64_t c = 0; c < columns; c++) total[c] += partial[c];
  }
}

// out[0] += factor · Σ sum(block), where the sums of blocks are added in their order in f64.
template <class Sum>
void sum_all(Pool& pool, const Tensor& x, const Tensor& out, double factor, const Sum& sum) {
  expect(is_float(x), "x of f32 or bf16");
  expect_vector(out, DType::f32, 1, "out [1] of f32");
  const int64_t size = x.size(), pieces = (size + kGrain - 1) / kGrain;
  auto* partials = static_cast<double*>(pool.scratch(0, Slot::sums, pieces * sizeof(double)));
  pool.ranges(size, kGrain, [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock];
    double total = 0;
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      total += sum(load(x, at, n, buffer), n);
    }
    partials[begin / kGrain] = total;
  });
  double total = 0;
  for (int64_t piece = 0; piece < pieces; piece++) total += partials[piece];
  *f32_at(out, 0) += static_cast<float>(factor * total);
}

// weight + offset as f32, once for all rows.
const float* widened_weight(Pool& pool, const Tensor& weight, int64_t columns, double offset) {
  expect(is_float(weight) && weight.size() == columns, "one weight per column of x");
  auto* w = static_cast<float*>(pool.scratch(0, Slot::shared, columns * sizeof(float)));
  const float* stored = load(weight, 0, columns, w);
  for (int64_t c = 0; c < columns; c++) w[c] = stored[c] + static_cast<float>(offset);
  return w;
}

}  // namespace

void column_sum(const Call& call, Pool& pool) {
  using namespace column_sum_op;
  const Tensor& x = call.inputs[i_x];
  expect_floats(x);
  const int64_t columns = x.columns();
  sum_over_rows(pool, call.outputs[o_out], x.rows(), columns, [&](int64_t begin, int64_t end, int, float* partial) {
    alignas(64) float buffer[kBlock];
    for (int64_t at = 0; at < columns; at += kBlock) {
      const int64_t n = columns - at < kBlock ? columns - at : kBlock;
      for (int64_t i = begin; i < end; i++) {
        const float* row = load(x, i * columns + at, n, buffer);
#pragma omp simd
        for (int64_t j = 0; j < n; j++) partial[at + j] += row[j];
      }
    }
  });
}

void sum(const Call& call, Pool& pool) {
  using namespace sum_op;
  const double factor = Attributes(call.attributes).factor;
  sum_all(pool, call.inputs[i_x], call.outputs[o_out], factor, [](const float* x, int64_t n) { return row_sum(x, n); });
}

void sum_squares(const Call& call, Pool& pool) {
  using namespace sum_squares_op;
  sum_all(pool, call.inputs[i_x], call.outputs[o_out], 1, [](const float* x, int64_t n) { return dot(x, x, n); });
}

void rms_norm(const Call& call, Pool& pool) {
  using namespace rms_norm_op;
  const Tensor &x = call.inputs[i_x], &y = call.outputs[o_y], &rstd = call.outputs[o_rstd];
  expect_floats(x, y);
  const int64_t rows = x.rows(), columns = x.columns();
  expect(y.size() == x.size(), "operands of one size");
  expect_vector(rstd, DType::f32, rows, "one f32 rstd per row");
  const Attributes attributes(call.attributes);
  const double eps = attributes.eps;
  const float* w = widened_weight(pool, call.inputs[i_weight], columns, attributes.offset);
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int thread) {
    auto* buffer = static_cast<float*>(pool.scratch(thread, Slot::rows, columns * sizeof(float)));
    for (int64_t i = begin; i < end; i++) {
      const float* row = load(x, i * columns, columns, buffer);
      const float r = static_cast<float>(1 / std::sqrt(static_cast<double>(dot(row, row, columns)) / static_cast<double>(columns) + eps));
      *f32_at(rstd, i) = r;
      float* to = target(y, i * columns, buffer);
#pragma omp simd
      for (int64_t c = 0; c < columns; c++) to[c] = row[c] * r * w[c];
      store(y, i * columns, columns, to);
    }
  });
}

void rms_norm_backward(const Call& call, Pool& pool) {
  using namespace rms_norm_backward_op;
  const Tensor &x = call.inputs[i_x], &dy = call.inputs[i_dy], &rstd = call.inputs[i_rstd], &residual = call.inputs[i_residual];
  const Tensor& dx = call.outputs[o_dx];
  expect_floats(x, dy, dx);
  const int64_t rows = x.rows(), columns = x.columns();
  expect(dy.size() == x.size() && dx.size() == x.size(), "operands of one size");
  expect(!residual || (is_float(residual) && residual.size() == x.size()), "a residual of x's size");
  expect_vector(rstd, DType::f32, rows, "one f32 rstd per row");
  const float* w = widened_weight(pool, call.inputs[i_weight], columns, Attributes(call.attributes).offset);
  sum_over_rows(pool, call.outputs[o_dweight], rows, columns, [&](int64_t begin, int64_t end, int thread, float* dweight) {
    // There are three rows, each on cache lines of its own.
    const int64_t stride = (columns + 15) / 16 * 16;
    auto* buffers = static_cast<float*>(pool.scratch(thread, Slot::rows, 3 * stride * sizeof(float)));
    for (int64_t i = begin; i < end; i++) {
      const float *row = load(x, i * columns, columns, buffers), *dout = load(dy, i * columns, columns, buffers + stride);
      const float r = *f32_at(rstd, i);
      const float projection = dot(dout, w, row, columns) * r * r / static_cast<float>(columns);
      if (dweight) {
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) dweight[c] += dout[c] * row[c] * r;
      }
      const float* rest = residual ? load(residual, i * columns, columns, buffers + 2 * stride) : nullptr;
      float* to = target(dx, i * columns, buffers + stride);
      if (rest) {
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) to[c] = r * (dout[c] * w[c] - row[c] * projection) + rest[c];
      } else {
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) to[c] = r * (dout[c] * w[c] - row[c] * projection);
      }
      store(dx, i * columns, columns, to);
    }
  });
}

void layer_norm(const Call& call, Pool& pool) {
  using namespace layer_norm_op;
  const Tensor &x = call.inputs[i_x], &bias = call.inputs[i_bias], &y = call.outputs[o_y];
  const Tensor &mean = call.outputs[o_mean], &rstd = call.outputs[o_rstd];
  expect_floats(x, y);
  const int64_t rows = x.rows(), columns = x.columns();
  expect(y.size() == x.size(), "operands of one size");
  expect_vector(mean, DType::f32, rows, "one f32 mean per row");
  expect_vector(rstd, DType::f32, rows, "one f32 rstd per row");
  expect(!bias || (is_float(bias) && bias.size() == columns), "one bias per column of x");
  const double eps = Attributes(call.attributes).eps;
  // Weight and bias as f32, once for all rows.
  const Tensor& weight = call.inputs[i_weight];
  expect(is_float(weight) && weight.size() == columns, "one weight per column of x");
  auto* shared = static_cast<float*>(pool.scratch(0, Slot::shared, 2 * columns * sizeof(float)));
  const float* w = load(weight, 0, columns, shared);
  float* b = shared + columns;
  const float* stored = bias ? load(bias, 0, columns, b) : nullptr;
  for (int64_t c = 0; c < columns; c++) b[c] = stored ? stored[c] : 0.f;
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int thread) {
    auto* buffer = static_cast<float*>(pool.scratch(thread, Slot::rows, columns * sizeof(float)));
    for (int64_t i = begin; i < end; i++) {
      const float* row = load(x, i * columns, columns, buffer);
      const float center = row_sum(row, columns) / static_cast<float>(columns);
      const double variance = static_cast<double>(centered_squares(row, center, columns)) / static_cast<double>(columns);
      const float r = static_cast<float>(1 / std::sqrt(variance + eps));
      *f32_at(mean, i) = center;
      *f32_at(rstd, i) = r;
      float* to = target(y, i * columns, buffer);
#pragma omp simd
      for (int64_t c = 0; c < columns; c++) to[c] = (row[c] - center) * r * w[c] + b[c];
      store(y, i * columns, columns, to);
    }
  });
}

void layer_norm_backward(const Call& call, Pool& pool) {
  using namespace layer_norm_backward_op;
  const Tensor &x = call.inputs[i_x], &dy = call.inputs[i_dy], &residual = call.inputs[i_residual];
  const Tensor &mean = call.inputs[i_mean], &rstd = call.inputs[i_rstd], &dx = call.outputs[o_dx];
  expect_floats(x, dy, dx);
  const int64_t rows = x.rows(), columns = x.columns();
  expect(dy.size() == x.size() && dx.size() == x.size(), "operands of one size");
  expect(!residual || (is_float(residual) && residual.size() == x.size()), "a residual of x's size");
  expect_vector(mean, DType::f32, rows, "one f32 mean per row");
  expect_vector(rstd, DType::f32, rows, "one f32 rstd per row");
  const float* w = widened_weight(pool, call.inputs[i_weight], columns, 0);
  sum_over_rows(pool, call.outputs[o_dweight], rows, columns, [&](int64_t begin, int64_t end, int thread, float* dweight) {
    // There are three rows, each on cache lines of its own.
    const int64_t stride = (columns + 15) / 16 * 16;
    auto* buffers = static_cast<float*>(pool.scratch(thread, Slot::rows, 3 * stride * sizeof(float)));
    for (int64_t i = begin; i < end; i++) {
      const float *row = load(x, i * columns, columns, buffers), *dout = load(dy, i * columns, columns, buffers + stride);
      const float center = *f32_at(mean, i), r = *f32_at(rstd, i), n = static_cast<float>(columns);
      const float constant = dot(dout, w, columns) / n, projection = centered_dot(dout, w, row, center, columns) * r * r / n;
      if (dweight) {
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) dweight[c] += dout[c] * (row[c] - center) * r;
      }
      const float* rest = residual ? load(residual, i * columns, columns, buffers + 2 * stride) : nullptr;
      float* to = target(dx, i * columns, buffers + stride);
      if (rest) {
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) to[c] = r * (dout[c] * w[c] - constant - (row[c] - center) * projection) + rest[c];
      } else {
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) to[c] = r * (dout[c] * w[c] - constant - (row[c] - center) * projection);
      }
      store(dx, i * columns, columns, to);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA
