// Ops that move or treat whole rows.
#include "blocks.h"

namespace lowrank::LOWRANK_ISA {

void gather_rows(const Call& call, Pool& pool) {
  using namespace gather_rows_op;
  const Tensor &x = call.inputs[i_x], &out = call.outputs[o_out];
  expect_floats(x, out);
  const int64_t columns = x.columns(), n = out.rows();
  expect(out.size() == n * columns, "out of x's width");
  const int32_t* rows = expect_rows(call.inputs[i_rows], n, x.rows(), "rows");
  pool.ranges(n, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) copy(x, rows[i] * columns, out, i * columns, columns);
  });
}

void write_rows(const Call& call, Pool& pool) {
  using namespace write_rows_op;
  const Tensor &x = call.inputs[i_x], &out = call.outputs[o_out];
  expect_floats(x, out);
  const int64_t columns = out.columns(), n = x.rows();
  expect(x.size() == n * columns, "x of out's width");
  const int32_t* rows = expect_rows(call.inputs[i_rows], n, out.rows(), "rows");
  pool.ranges(n, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) copy(x, i * columns, out, rows[i] * columns, columns);
  });
}

void add_rows(const Call& call, Pool& pool) {
  using namespace add_rows_op;
  const Tensor &x = call.inputs[i_x], &out = call.outputs[o_out];
  expect(is_float(x) && out.dtype == DType::f32, "x of f32 or bf16 and out of f32");
  const int64_t columns = out.columns(), n = x.rows();
  expect(x.size() == n * columns, "x of out's width");
  const int32_t* rows = expect_rows(call.inputs[i_rows], n, out.rows(), "rows");
  // Rows may repeat, so threads share the columns and each sum is made in the order of i.
  const int64_t share = (columns + pool.threads() - 1) / pool.threads();
  const int64_t grain = n * columns <= kGrain ? columns : share;
  pool.ranges(columns, grain, [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t count = end - at < kBlock ? end - at : kBlock;
      for (int64_t i = 0; i < n; i++) {
        const float* from = load(x, i * columns + at, count, buffer);
        float* to = f32_at(out, rows[i] * columns + at);
#pragma omp simd
        for (int64_t j = 0; j < count; j++) to[j] += from[j];
      }
    }
  });
}

namespace {

// `extent` rows or columns from `begin` on are some of `limit`.
void expect_inside(int64_t begin, int64_t extent, int64_t limit, const char* what) { expect(begin >= 0 && begin <= limit - extent, what); }

}  // namespace

void slice(const Call& call, Pool& pool) {
  using namespace slice_op;
  const Tensor &x = call.inputs[i_x], &out = call.outputs[o_out];
  expect_floats(x, out);
  expect(x.rank == 2 && out.rank == 2, "matrices");
  const int64_t m = out.shape[0], n = out.shape[1];
  const Attributes attributes(call.attributes);
  const int64_t row = attributes.row, column = attributes.column;
  expect_inside(row, m, x.shape[0], "rows inside x");
  expect_inside(column, n, x.shape[1], "columns inside x");
  pool.ranges(m, row_grain(n), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) copy(x, (row + i) * x.shape[1] + column, out, i * n, n);
  });
}

void place(const Call& call, Pool& pool) {
  using namespace place_op;
  const Tensor &x = call.inputs[i_x], &out = call.outputs[o_out];
  expect_floats(x, out);
  expect(x.rank == 2 && out.rank == 2, "matrices");
  const int64_t m = x.shape[0], n = x.shape[1];
  const Attributes attributes(call.attributes);
  const int64_t row = attributes.row, column = attributes.column;
  expect_inside(row, m, out.shape[0], "rows inside out");
  expect_inside(column, n, out.shape[1], "columns inside out");
  pool.ranges(m, row_grain(n), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock], sums[kBlock];
    for (int64_t i = begin; i < end; i++) {
      const int64_t to = (row + i) * out.shape[1] + column;
      if (!attributes.accumulate) {
        copy(x, i * n, out, to, n);
        continue;
      }
      for (int64_t at = 0; at < n; at += kBlock) {
        const int64_t count = n - at < kBlock ? n - at : kBlock;
        const float* from = load(x, i * n + at, count, buffer);
        const float* before = load(out, to + at, count, sums);
        float* y = target(out, to + at, sums);
#pragma omp simd
        for (int64_t j = 0; j < count; j++) y[j] = before[j] + from[j];
        store(out, to + at, count, y);
      }
    }
  });
}

void add_bias(const Call& call, Pool& pool) {
  using namespace add_bias_op;
  const Tensor &x = call.inputs[i_x], &bias = call.inputs[i_bias], &out = call.outputs[o_out];
  expect_floats(x, bias, out);
  const int64_t rows = x.rows(), columns = x.columns();
  expect(out.size() == x.size() && bias.size() == columns, "one bias per column of x");
  const float* b = load(bias, 0, columns, static_cast<float*>(pool.scratch(0, Slot::shared, columns * sizeof(float))));
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock], result[kBlock];
    for (int64_t i = begin; i < end; i++) {
      for (int64_t at = 0; at < columns; at += kBlock) {
        const int64_t n = columns - at < kBlock ? columns - at : kBlock;
        const float* from = load(x, i * columns + at, n, buffer);
        float* y = target(out, i * columns + at, result);
#pragma omp simd
        for (int64_t j = 0; j < n; j++) y[j] = from[j] + b[at + j];
        store(out, i * columns + at, n, y);
      }
    }
  });
}

void rope(const Call& call, Pool& pool) {
  using namespace rope_op;
  const Tensor &x = call.inputs[i_x], &cos = call.inputs[i_cos], &sin = call.inputs[i_sin], &out = call.outputs[o_out];
  expect_floats(x, out);
  const int64_t tokens = x.rows(), columns = x.columns(), half = cos.columns();
  const Attributes attributes(call.attributes);
  const int64_t width = attributes.head_dim;
  expect(out.size() == x.size(), "operands of one size");
  expect(width > 0 && columns % width == 0 && 2 * half <= width, "whole heads of headDim ≥ 2·cos.shape[1]");
  expect(cos.dtype == DType::f32 && sin.dtype == DType::f32 && same_shape(cos, sin), "cos and sin of one shape in f32");
  const int32_t* positions = expect_rows(call.inputs[i_positions], tokens, cos.rows(), "positions");
  const float sign = attributes.back ? -1.f : 1.f;
  pool.ranges(tokens, row_grain(columns), [&](int64_t begin, int64_t end, int thread) {
    auto* row = static_cast<float*>(pool.scratch(thread, Slot::rows, columns * sizeof(float)));
    for (int64_t t = begin; t < end; t++) {
      const float* from = load(x, t * columns, columns, row);
      float* to = target(out, t * columns, row);
      const float *c = f32_at(cos, positions[t] * half), *s = f32_at(sin, positions[t] * half);
      for (int64_t head = 0; head < columns; head += width) {
        const float* u = from + head;
        float* v = to + head;
        if (attributes.interleaved) {
#pragma omp simd
          for (int64_t d = 0; d < half; d++) {
            const float a = u[2 * d], b = u[2 * d + 1], angle = sign * s[d];
            v[2 * d] = a * c[d] - angle * b;
            v[2 * d + 1] = b * c[d] + angle * a;
          }
        } else {
#pragma omp simd
          for (int64_t d = 0; d < half; d++) {
            const float a = u[d], b = u[d + half], angle = sign * s[d];
            v[d] = a * c[d] - angle * b;
            v[d + half] = b * c[d] + angle * a;
          }
        }
        if (u != v)
          for (int64_t d = 2 * half; d < width; d++) v[d] = u[d];
      }
      store(out, t * columns, columns, to);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA
