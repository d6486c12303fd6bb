// The updates of parameters by their gradients.
#include <algorithm>
#include <cmath>
#include <vector>

#include "quantized.h"

namespace lowrank::LOWRANK_ISA {

namespace {

constexpr int64_t kStateBlock = 256;

// A state of 8 bits: codes in blocks of 256, each with the scale of its numbers, and the tables between codes and numbers.
class State {
 public:
  State(const Tensor& codes, const Tensor& absmax, const Tensor& values, const Tensor& code_of_bin, int64_t size)
      : codes_(static_cast<uint8_t*>(codes.data)), absmax_(f32_at(absmax, 0)), values_(f32_at(values, 0)) {
    expect_vector(codes, DType::u8, size, "a u8 code for each element of the parameter");
    expect_vector(absmax, DType::f32, (size + kStateBlock - 1) / kStateBlock, "an f32 absmax for each 256 elements");
    expect_vector(values, DType::f32, 256, "256 f32 values");
    expect_vector(code_of_bin, DType::u8, kBins, "65536 u8 codes of bins");
    code_of_bin_ = static_cast<const uint8_t*>(code_of_bin.data);
  }

  // Decodes the numbers of the block that begins at this element.
  void decode(int64_t begin, int64_t n, float* __restrict out) const {
    const float scale = absmax_[begin / kStateBlock];
    for (int64_t i = 0; i < n; i++) out[i] = values_[codes_[begin + i]] * scale;
  }

  void encode(int64_t begin, int64_t n, const float* __restrict x) const {
    absmax_[begin / kStateBlock] = encode_bins(x, n, code_of_bin_, codes_ + begin);
  }

 private:
  uint8_t* codes_;
  float* absmax_;
  const float* values_;
  const uint8_t* code_of_bin_;
};

// Runs body(begin, n) for each whole block of states; a block belongs to one thread.
template <class Body>
void each_block(int64_t size, Pool& pool, const Body& body) {
  pool.ranges(size, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; at += kStateBlock) body(at, std::min(kStateBlock, end - at));
  });
}

// The sign of a number: −1, 0 or 1.
inline float sign(float x) { return static_cast<float>(x > 0.f) - static_cast<float>(x < 0.f); }

}  // namespace

void adamw(const Call& call, Pool& pool) {
  using namespace adamw_op;
  const Tensor &gradient = call.inputs[i_gradient], &parameter = call.outputs[o_parameter], &m = call.outputs[o_m], &v = call.outputs[o_v];
  const int64_t size = parameter.size();
  for (const Tensor& t : {gradient, parameter, m, v}) expect_vector(t, DType::f32, size, "f32 operands of one size");
  const Attributes a(call.attributes);
  const float step_size = static_cast<float>(a.lr / (1 - std::pow(a.beta1, static_cast<double>(a.step))));
  const float correction = static_cast<float>(std::sqrt(1 - std::pow(a.beta2, static_cast<double>(a.step))));
  const float decay = static_cast<float>(1 - a.lr * a.weight_decay), eps = static_cast<float>(a.eps);
  const float beta1 = static_cast<float>(a.beta1), rest1 = static_cast<float>(1 - a.beta1);
  const float beta2 = static_cast<float>(a.beta2), rest2 = static_cast<float>(1 - a.beta2);
  const float scale = static_cast<float>(a.gradient_scale);
  pool.ranges(size, kGrain, [&](int64_t begin, int64_t end, int) {
    const float* __restrict g = f32_at(gradient, 0);
    float *__restrict p = f32_at(parameter, 0), *__restrict first = f32_at(m, 0), *__restrict second = f32_at(v, 0);
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
      const float d = scale * g[i];
      first[i] = beta1 * first[i] + rest1 * d;
      second[i] = beta2 * second[i] + rest2 * d * d;
      p[i] = decay * p[i] - step_size * first[i] / (std::sqrt(second[i]) / correction + eps);
    }
  });
}

void adamw8bit(const Call& call, Pool& pool) {
  using namespace adamw8bit_op;
  const Tensor *in = call.inputs, *out = call.outputs;
  const Tensor &gradient = in[i_gradient], &parameter = out[o_parameter];
  const int64_t size = parameter.size();
  for (const Tensor& t : {gradient, parameter}) expect_vector(t, DType::f32, size, "f32 operands of one size");
  const State m(out[o_m], out[o_absmax_m], in[i_values_m], in[i_codes_m], size);
  const State v(out[o_v], out[o_absmax_v], in[i_values_v], in[i_codes_v], size);
  const Attributes a(call.attributes);
  const float step_size = static_cast<float>(a.lr / (1 - std::pow(a.beta1, static_cast<double>(a.step))));
  const float correction = static_cast<float>(std::sqrt(1 - std::pow(a.beta2, static_cast<double>(a.step))));
  const float decay = static_cast<float>(1 - a.lr * a.weight_decay), eps = static_cast<float>(a.eps);
  const float beta1 = static_cast<float>(a.beta1), rest1 = static_cast<float>(1 - a.beta1);
  const float beta2 = static_cast<float>(a.beta2), rest2 = static_cast<float>(1 - a.beta2);
  const float scale = static_cast<float>(a.gradient_scale);
  each_block(size, pool, [&](int64_t begin, int64_t n) {
    alignas(64) float first[kStateBlock], second[kStateBlock];
    const float* __restrict g = f32_at(gradient, begin);
    float* __restrict p = f32_at(parameter, begin);
    m.decode(begin, n, first);
    v.decode(begin, n, second);
    for (int64_t i = 0; i < n; i++) {
      const float d = scale * g[i];
      first[i] = std::fma(d, rest1, beta1 * first[i]);
      second[i] = std::fma(rest2 * d, d, beta2 * second[i]);
      p[i] = decay * p[i] - step_size * first[i] / (std::sqrt(second[i]) / correction + eps);
    }
    m.encode(begin, n, first);
    v.encode(begin, n, second);
  });
}

void lion(const Call& call, Pool& pool) {
  using namespace lion_op;
  const Tensor &gradient = call.inputs[i_gradient], &parameter = call.outputs[o_parameter], &m = call.outputs[o_m];
  const int64_t size = parameter.size();
  for (const Tensor& t : {gradient, parameter, m}) expect_vector(t, DType::f32, size, "f32 operands of one size");
  const Attributes a(call.attributes);
  const float lr = static_cast<float>(a.lr), decay = static_cast<float>(1 - a.lr * a.weight_decay);
  const float beta1 = static_cast<float>(a.beta1), rest1 = static_cast<float>(1 - a.beta1);
  const float beta2 = static_cast<float>(a.beta2), rest2 = static_cast<float>(1 - a.beta2);
  const float scale = static_cast<float>(a.gradient_scale);
  each_block(size, pool, [&](int64_t begin, int64_t n) {
    const float* __restrict g = f32_at(gradient, begin);
    float *__restrict p = f32_at(parameter, begin), *__restrict first = f32_at(m, begin);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const float d = scale * g[i], before = first[i];
      first[i] = std::fma(d, rest2, beta2 * before);
      p[i] = decay * p[i] - lr * sign(std::fma(d, rest1, beta1 * before));
    }
  });
}

void lion8bit(const Call& call, Pool& pool) {
  using namespace lion8bit_op;
  const Tensor *in = call.inputs, *out = call.outputs;
  const Tensor &gradient = in[i_gradient], &parameter = out[o_parameter];
  const int64_t size = parameter.size();
  for (const Tensor& t : {gradient, parameter}) expect_vector(t, DType::f32, size, "f32 operands of one size");
  const State m(out[o_m], out[o_absmax], in[i_values], in[i_codes], size);
  const Attributes a(call.attributes);
  const float lr = static_cast<float>(a.lr), decay = static_cast<float>(1 - a.lr * a.weight_decay);
  const float beta1 = static_cast<float>(a.beta1), rest1 = static_cast<float>(1 - a.beta1);
  const float beta2 = static_cast<float>(a.beta2), rest2 = static_cast<float>(1 - a.beta2);
  const float scale = static_cast<float>(a.gradient_scale);
  each_block(size, pool, [&](int64_t begin, int64_t n) {
    alignas(64) float first[kStateBlock];
    const float* __restrict g = f32_at(gradient, begin);
    float* __restrict p = f32_at(parameter, begin);
    m.decode(begin, n, first);
    for (int64_t i = 0; i < n; i++) {
      const float d = scale * g[i];
      p[i] = decay * p[i] - lr * sign(std::fma(d, rest1, beta1 * first[i]));
      first[i] = std::fma(d, rest2, beta2 * first[i]);
    }
    m.encode(begin, n, first);
  });
}

void sgd(const Call& call, Pool& pool) {
  using namespace sgd_op;
  const Tensor &gradient = call.inputs[i_gradient], &parameter = call.outputs[o_parameter];
  const int64_t size = parameter.size();
  for (const Tensor& t : {gradient, parameter}) expect_vector(t, DType::f32, size, "f32 operands of one size");
  const Attributes a(call.attributes);
  const float lr = static_cast<float>(a.lr), decay = static_cast<float>(a.weight_decay), scale = static_cast<float>(a.gradient_scale);
  pool.ranges(size, kGrain, [&](int64_t begin, int64_t end, int) {
    const float* __restrict g = f32_at(gradient, 0);
    float* __restrict p = f32_at(parameter, 0);
    for (int64_t i = begin; i < end; i++) p[i] -= lr * (scale * g[i] + decay * p[i]);
  });
}

namespace {

struct Adafactor {
  float lr, decay, beta2, rest2, eps, clip, scale;
  explicit Adafactor(const adafactor_op::Attributes& a) {
    lr = static_cast<float>(a.lr), decay = static_cast<float>(1 - a.lr * a.weight_decay);
    beta2 = static_cast<float>(a.beta2), rest2 = static_cast<float>(1 - a.beta2);
    eps = static_cast<float>(a.eps), clip = static_cast<float>(a.clip_threshold), scale = static_cast<float>(a.gradient_scale);
  }
  // The factor of u, which depends on the sums of u² of all pieces.
  float factor(const std::vector<double>& squares, int64_t size) const {
    double sum = 0;
    for (const double square : squares) sum += square;
    return lr / std::max(1.f, static_cast<float>(std::sqrt(sum / static_cast<double>(size))) / clip);
  }
};

// Updates the moving means of a matrix's rows and columns. Each sum is made by one thread.
void update_means(const Adafactor& o, const Tensor& gradient, const Tensor& row, const Tensor& column, Pool& pool) {
  const int64_t rows = gradient.rows(), columns = gradient.columns();
  const float* g = f32_at(gradient, 0);
  float *r = f32_at(row, 0), *c = f32_at(column, 0);
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < columns; j++) {
        const float d = o.scale * g[i * columns + j];
        sum += static_cast<double>(d * d + o.eps);
      }
      r[i] = o.beta2 * r[i] + o.rest2 * static_cast<float>(sum / static_cast<double>(columns));
    }
  });
  constexpr int64_t kColumns = 256;
  pool.ranges(columns, kColumns, [&](int64_t begin, int64_t end, int) {
    double sums[kColumns] = {};
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = begin; j < end; j++) {
        const float d = o.scale * g[i * columns + j];
        sums[j - begin] += static_cast<double>(d * d + o.eps);
      }
    for (int64_t j = begin; j < end; j++)
      c[j] = o.beta2 * c[j] + o.rest2 * static_cast<float>(sums[j - begin] / static_cast<double>(rows));
  });
}

void adafactor_matrix(const Adafactor& o, const Call& call, Pool& pool) {
  using namespace adafactor_op;
  const Tensor &gradient = call.inputs[i_gradient], &parameter = call.outputs[o_parameter];
  const Tensor &row = call.outputs[o_row], &column = call.outputs[o_column];
  const int64_t rows = parameter.rows(), columns = parameter.columns();
  expect_vector(row, DType::f32, rows, "an f32 mean for each row");
  expect_vector(column, DType::f32, columns, "an f32 mean for each column");
  update_means(o, gradient, row, column, pool);
  const float *r = f32_at(row, 0), *c = f32_at(column, 0), *g = f32_at(gradient, 0);
  double sum = 0;
  for (int64_t i = 0; i < rows; i++) sum += static_cast<double>(r[i]);
  const float mean = static_cast<float>(sum / static_cast<double>(rows));
  std::vector<float> of_row(rows), of_column(columns);
  for (int64_t i = 0; i < rows; i++) of_row[i] = o.scale / std::sqrt(r[i] / mean);
  for (int64_t j = 0; j < columns; j++) of_column[j] = 1.f / std::sqrt(c[j]);
  std::vector<double> squares(rows);
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      double square = 0;
#pragma omp simd reduction(+ : square)
      for (int64_t j = 0; j < columns; j++) {
        const float u = of_row[i] * of_column[j] * g[i * columns + j];
        square += static_cast<double>(u) * static_cast<double>(u);
      }
      squares[i] = square;
    }
  });
  const float factor = o.factor(squares, parameter.size());
  float* p = f32_at(parameter, 0);
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t j = 0; j < columns; j++) {
        const int64_t at = i * columns + j;
        p[at] = o.decay * p[at] - factor * (of_row[i] * of_column[j] * g[at]);
      }
  });
}

void adafactor_plain(const Adafactor& o, const Call& call, Pool& pool) {
  using namespace adafactor_op;
  const Tensor &gradient = call.inputs[i_gradient], &parameter = call.outputs[o_parameter], &state = call.outputs[o_v];
  const int64_t size = parameter.size();
  expect_vector(state, DType::f32, size, "an f32 v of the parameter's size");
  float *p = f32_at(parameter, 0), *v = f32_at(state, 0);
  const float* g = f32_at(gradient, 0);
  std::vector<double> squares((size + kGrain - 1) / kGrain);
  pool.ranges(size, kGrain, [&](int64_t begin, int64_t end, int) {
    double square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t i = begin; i < end; i++) {
      const float d = o.scale * g[i];
      v[i] = o.beta2 * v[i] + o.rest2 * (d * d + o.eps);
      const float u = d / std::sqrt(v[i]);
      square += static_cast<double>(u) * static_cast<double>(u);
    }
    squares[begin / kGrain] = square;
  });
  const float factor = o.factor(squares, size);
  pool.ranges(size, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) p[i] = o.decay * p[i] - factor * (o.scale * g[i] / std::sqrt(v[i]));
  });
}

}  // namespace

void adafactor(const Call& call, Pool& pool) {
  using namespace adafactor_op;
  const Tensor &gradient = call.inputs[i_gradient], &parameter = call.outputs[o_parameter];
  expect(gradient.dtype == DType::f32 && parameter.dtype == DType::f32 && same_shape(gradient, parameter), "f32 operands of one shape");
  const bool matrix = parameter.rank == 2;
  const auto present = [&](int output) { return static_cast<bool>(call.outputs[output]); };
  const bool row = present(o_row), column = present(o_column), v = present(o_v);
  expect(row == matrix && column == matrix && v != matrix, "row and column for a matrix, v for any other parameter");
  if (parameter.size() == 0) return;
  const Adafactor options{Attributes(call.attributes)};
  if (matrix)
    adafactor_matrix(options, call, pool);
  else
    adafactor_plain(options, call, pool);
}

}  // namespace lowrank::LOWRANK_ISA
