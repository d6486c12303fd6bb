// Row-wise softmax, cross-entropy and argmax.
#include <cmath>
#include <numeric>
#include <vector>

#include "blocks.h"
#include "simd.h"

namespace lowrank::LOWRANK_ISA {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline float maximum(const float* x, int64_t n) {
  float best = -kInfinity;
#pragma omp simd reduction(max : best)
  for (int64_t i = 0; i < n; i++) best = x[i] > best ? x[i] : best;
  return best;
}

// The soft cap of numbers, where there is one: what to read them with, block by block.
struct Softcap {
  float cap, inverse;

  explicit Softcap(double value) : cap(static_cast<float>(value)), inverse(value > 0 ? 1.f / cap : 0.f) {}
  float slope(float y) const { return 1.f - (y * inverse) * (y * inverse); }
  float of(float x) const { return cap > 0 ? cap * tanh_f32(x * inverse) : x; }
  // The numbers themselves without a cap, otherwise capped ones in `buffer`.
  const float* block(const float* x, int64_t n, float* __restrict buffer) const {
    if (!(cap > 0)) return x;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) buffer[i] = cap * tanh_f32(x[i] * inverse);
    return buffer;
  }
};

// The maximum of a row and Σ exp(x − maximum). The row is read once, since the sum is rescaled where a block raises the maximum.
struct Partition {
  float maximum;
  double sum;
};
inline Partition partition(const float* row, int64_t n, const Softcap& softcap) {
  alignas(64) float buffer[4 * kBlock];
  Partition p{-kInfinity, 0};
  for (int64_t at = 0; at < n; at += 4 * kBlock) {
    const int64_t count = n - at < 4 * kBlock ? n - at : 4 * kBlock;
    const float* x = softcap.block(row + at, count, buffer);
    const float best = maximum(x, count);
    if (best > p.maximum) {
      p.sum *= exp_f32(p.maximum - best);
      p.maximum = best;
    }
    const float shift = p.maximum;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) sum += exp_f32(x[i] - shift);
    p.sum += sum;
  }
  return p;
}

}  // namespace

void softmax(const Call& call, Pool& pool) {
  using namespace softmax_op;
  const Tensor &x = call.inputs[i_x], &y = call.outputs[o_y];
  expect(x.dtype == DType::f32 && y.dtype == DType::f32 && x.rank == 2 && same_shape(x, y), "f32 matrices of one shape");
  const int64_t columns = x.shape[1];
  const Attributes attributes(call.attributes);
  const int64_t offset = attributes.offset, window = attributes.window;
  const Tensor& sinks = call.inputs[i_sink];
  if (sinks) expect_vector(sinks, DType::f32, 1, "one f32 sink");
  const float sink = sinks ? *f32_at(sinks, 0) : -kInfinity;
  pool.ranges(x.shape[0], row_grain(columns), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t seen = i + offset + 1, last = seen < 0 ? 0 : seen < columns ? seen : columns;
      const int64_t oldest = window > 0 && seen > window ? seen - window : 0, first = oldest < last ? oldest : last;
      const float* from = f32_at(x, i * columns);
      float* to = f32_at(y, i * columns);
      const float most = maximum(from + first, last - first), shift = most < sink ? sink : most;
      float sum = sinks ? exp_f32(sink - shift) : 0.f;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = first; j < last; j++) {
        to[j] = exp_f32(from[j] - shift);
        sum += to[j];
      }
      const float scale = 1.f / sum;
      for (int64_t j = first; j < last; j++) to[j] *= scale;
      std::memset(to, 0, first * sizeof(float));
      std::memset(to + last, 0, (columns - last) * sizeof(float));
    }
  });
}

void softmax_backward(const Call& call, Pool& pool) {
  using namespace softmax_backward_op;
  const Tensor &y = call.inputs[i_y], &dy = call.inputs[i_dy], &dx = call.outputs[o_dx], &dsink = call.outputs[o_dsink];
  expect(y.dtype == DType::f32 && dy.dtype == DType::f32 && dx.dtype == DType::f32, "f32 operands");
  expect(y.rank == 2 && same_shape(y, dy) && same_shape(y, dx), "matrices of one shape");
  if (dsink) expect_vector(dsink, DType::f32, 1, "one f32 gradient of the sink");
  const int64_t columns = y.shape[1];
  std::vector<double> slopes(dsink ? y.shape[0] : 0);
  pool.ranges(y.shape[0], row_grain(columns), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const float *p = f32_at(y, i * columns), *d = f32_at(dy, i * columns);
      float* to = f32_at(dx, i * columns);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < columns; j++) sum += p[j] * d[j];
#pragma omp simd
      for (int64_t j = 0; j < columns; j++) to[j] = p[j] * (d[j] - sum);
      if (!dsink) continue;
      float seen = 0;
#pragma omp simd reduction(+ : seen)
      for (int64_t j = 0; j < columns; j++) seen += p[j];
      slopes[i] = (1.0 - seen) * sum;
    }
  });
  if (dsink) *f32_at(dsink, 0) -= static_cast<float>(std::accumulate(slopes.begin(), slopes.end(), 0.0));
}

void cross_entropy(const Call& call, Pool& pool) {
  using namespace cross_entropy_op;
  const Tensor &logits = call.inputs[i_logits], &labels = call.inputs[i_labels], &weights = call.inputs[i_weights];
  const Tensor &losses = call.outputs[o_losses], &gradient = call.outputs[o_gradient];
  expect(logits.dtype == DType::f32 && logits.rank == 2, "a matrix of f32 logits");
  const int64_t rows = logits.shape[0], columns = logits.shape[1];
  expect_vector(labels, DType::i32, rows, "one i32 label per row");
  if (weights) expect_vector(weights, DType::f32, rows, "one f32 weight per row");
  expect_vector(losses, DType::f32, rows, "one f32 loss per row");
  expect(!gradient || (is_float(gradient) && same_shape(gradient, logits)), "a gradient of the logits' shape");
  const auto* label = static_cast<const int32_t*>(labels.data);
  for (int64_t i = 0; i < rows; i++)
    if (label[i] >= columns)
      fail("labels[%lld] = %d is outside the vocabulary of %lld", (long long)i, label[i], (long long)columns);
  const Attributes attributes(call.attributes);
  const float scale = static_cast<float>(attributes.scale);
  const Softcap softcap(attributes.softcap);
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock], capped[kBlock];
    for (int64_t i = begin; i < end; i++) {
      const bool ignored = label[i] < 0;
      const float* x = f32_at(logits, i * columns);
      const Partition p = ignored ? Partition{0, 1} : partition(x, columns, softcap);
      *f32_at(losses, i) = ignored ? 0.f : static_cast<float>(std::log(p.sum) + static_cast<double>(p.maximum) - softcap.of(x[label[i]]));
      if (!gradient) continue;
      const float slope = weights ? scale * *f32_at(weights, i) : scale, factor = static_cast<float>(slope / p.sum);
      for (int64_t at = 0; at < columns; at += kBlock) {
        const int64_t n = columns - at < kBlock ? columns - at : kBlock;
        float* g = target(gradient, i * columns + at, buffer);
        if (ignored) {
          std::memset(g, 0, n * sizeof(float));
        } else {
          const float* y = softcap.block(x + at, n, capped);
#pragma omp simd
          for (int64_t j = 0; j < n; j++) g[j] = factor * exp_f32(y[j] - p.maximum);
          if (label[i] >= at && label[i] < at + n) g[label[i] - at] -= slope;
          if (softcap.cap > 0)
#pragma omp simd
            for (int64_t j = 0; j < n; j++) g[j] *= softcap.slope(y[j]);
        }
        store(gradient, i * columns + at, n, g);
      }
    }
  });
}

void argmax(const Call& call, Pool& pool) {
  using namespace argmax_op;
  const Tensor &x = call.inputs[i_x], &index = call.outputs[o_index];
  expect_floats(x);
  const int64_t columns = x.columns();
  expect_vector(index, DType::i32, x.rows(), "one i32 index per row");
  pool.ranges(x.rows(), row_grain(columns), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock];
    for (int64_t i = begin; i < end; i++) {
      float best = -kInfinity;
      int64_t place = -1;
      for (int64_t at = 0; at < columns; at += kBlock) {
        const int64_t n = columns - at < kBlock ? columns - at : kBlock;
        const float* row = load(x, i * columns + at, n, buffer);
        const float here = maximum(row, n);
        if (!(here > best)) continue;
        best = here;
        int64_t j = 0;
        while (row[j] != best) j++;
        place = at + j;
      }
      static_cast<int32_t*>(index.data)[i] = static_cast<int32_t>(place);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA
