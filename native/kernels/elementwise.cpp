// Ops that treat every element by itself.
#include <cmath>

#include "blocks.h"
#include "random.h"
#include "simd.h"

namespace lowrank::LOWRANK_ISA {

namespace {

struct ValueAndSlope {
  float value, slope;
};

template <Activation kind>
inline ValueAndSlope activate(float x) {
  if constexpr (kind == Activation::silu) {
    const float s = sigmoid_f32(x);
    return {x * s, s * (1.f + x * (1.f - s))};
  } else if constexpr (kind == Activation::gelu_tanh) {
    // ½(1 + tanh u) = sigmoid(2u), u = √(2/π)·(x + 0.044715·x³).
    constexpr float a = 1.5957691216f, b = 0.044715f;
    const float s = sigmoid_f32(a * (x + b * x * x * x));
    return {x * s, s + x * s * (1.f - s) * a * (1.f + 3.f * b * x * x)};
  } else {
    const Normal normal = normal_f32(x);
    return {x * normal.distribution, normal.distribution + x * normal.density};
  }
}

#if defined(__AVX512F__)
// 1 / (1 + e⁻ˣ), whose reciprocal is an estimate and one step of Newton's method. e⁻ˣ is bounded so that the estimate is a normal number.
inline __m512 sigmoid_lanes(__m512 x) {
  const __m512 e = _mm512_min_ps(exp2_lanes(_mm512_mul_ps(x, _mm512_set1_ps(-kLog2E))), _mm512_set1_ps(0x1p126f));
  const __m512 d = _mm512_add_ps(e, _mm512_set1_ps(1.f)), r = _mm512_rcp14_ps(d);
  return _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2.f)));
}

// Runs body(i, mask) over all elements, sixteen at a time.
template <class Body>
void each_lanes(int64_t size, Pool& pool, const Body& body) {
  pool.ranges(size, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += 16) body(i, first(end - i));
  });
}
#endif

// Calls body with the activation's kind as a constant.
template <class Body>
void with_kind(Activation kind, const Body& body) {
  switch (kind) {
    case Activation::silu: return body.template operator()<Activation::silu>();
    case Activation::gelu_tanh: return body.template operator()<Activation::gelu_tanh>();
    case Activation::gelu: return body.template operator()<Activation::gelu>();
  }
  fail("unknown activation kind %d", static_cast<int>(kind));
}

template <class T>
void fill_with(const Tensor& out, T value, Pool& pool) {
  T* data = static_cast<T*>(out.data);
  pool.ranges(out.size(), kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) data[i] = value;
  });
}

}  // namespace

void fill(const Call& call, Pool& pool) {
  using namespace fill_op;
  const Tensor& out = call.outputs[o_out];
  const double value = Attributes(call.attributes).value;
  switch (out.dtype) {
    case DType::f32: return fill_with(out, static_cast<float>(value), pool);
    case DType::bf16: return fill_with(out, to_bf16(static_cast<float>(value)), pool);
    case DType::f16: return fill_with(out, to_f16(static_cast<float>(value)), pool);
    case DType::i32: return fill_with(out, static_cast<int32_t>(value), pool);
    case DType::u8: return fill_with(out, static_cast<uint8_t>(value), pool);
    case DType::i8:
    case DType::u4: fail("codes are not filled");
  }
}

void cast(const Call& call, Pool& pool) {
  using namespace cast_op;
  const Tensor &x = call.inputs[i_x], &out = call.outputs[o_out];
  expect((is_float(x) || x.dtype == DType::f16) && (is_float(out) || out.dtype == DType::f16), "f32, bf16 or f16 operands");
  expect(x.size() == out.size(), "as many elements in out as in x");
  pool.ranges(out.size(), kGrain, [&](int64_t begin, int64_t end, int) {
    if (x.dtype != DType::f32 || out.dtype != DType::bf16) return copy(x, begin, out, begin, end - begin);
    // This is exact for subnormal numbers too.
    for (int64_t i = begin; i < end; i++) *half_at(out, i) = to_bf16(*f32_at(x, i));
  });
}

void add(const Call& call, Pool& pool) {
  using namespace add_op;
  expect_floats(call.inputs[i_a], call.inputs[i_b], call.outputs[o_out]);
  map<2, 1>(call, pool, [](int64_t n, const float* const* in, float* const* out) {
    const float *a = in[i_a], *b = in[i_b];
    float* y = out[o_out];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
  });
}

void mul(const Call& call, Pool& pool) {
  using namespace mul_op;
  expect_floats(call.inputs[i_a], call.inputs[i_b], call.outputs[o_out]);
  map<2, 1>(call, pool, [](int64_t n, const float* const* in, float* const* out) {
    const float *a = in[i_a], *b = in[i_b];
    float* y = out[o_out];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = a[i] * b[i];
  });
}

void accumulate(const Call& call, Pool& pool) {
  using namespace accumulate_op;
  expect_floats(call.inputs[i_x], call.outputs[o_out]);
  const float factor = static_cast<float>(Attributes(call.attributes).factor);
  map<1, 1, true>(call, pool, [factor](int64_t n, const float* const* in, float* const* out) {
    const float* x = in[i_x];
    float* y = out[o_out];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] += factor * x[i];
  });
}

void activation(const Call& call, Pool& pool) {
  using namespace activation_op;
  expect_floats(call.inputs[i_x], call.outputs[o_y]);
  with_kind(Attributes(call.attributes).kind, [&]<Activation kind>() {
    map<1, 1>(call, pool, [](int64_t n, const float* const* in, float* const* out) {
      const float* x = in[i_x];
      float* y = out[o_y];
#pragma omp simd
      for (int64_t i = 0; i < n; i++) y[i] = activate<kind>(x[i]).value;
    });
  });
}

void activation_backward(const Call& call, Pool& pool) {
  using namespace activation_backward_op;
  expect_floats(call.inputs[i_x], call.inputs[i_dy], call.outputs[o_dx]);
  with_kind(Attributes(call.attributes).kind, [&]<Activation kind>() {
    map<2, 1>(call, pool, [](int64_t n, const float* const* in, float* const* out) {
      const float *x = in[i_x], *dy = in[i_dy];
      float* dx = out[o_dx];
#pragma omp simd
      for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * activate<kind>(x[i]).slope;
    });
  });
}

void gated(const Call& call, Pool& pool) {
  using namespace gated_op;
  const Tensor &gates = call.inputs[i_gate], &ups = call.inputs[i_up], &outs = call.outputs[o_out];
  expect_floats(gates, ups, outs);
#if defined(__AVX512F__)
  // The usual activation needs no buffers.
  if (Attributes(call.attributes).kind == Activation::silu) {
    expect(gates.size() == outs.size() && ups.size() == outs.size(), "operands of one size");
    return each_lanes(outs.size(), pool, [&](int64_t i, __mmask16 mask) {
      const __m512 gate = load_lanes(gates, i, mask);
      store_lanes(outs, i, mask, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid_lanes(gate)), load_lanes(ups, i, mask)));
    });
  }
#endif
  with_kind(Attributes(call.attributes).kind, [&]<Activation kind>() {
    map<2, 1>(call, pool, [](int64_t n, const float* const* in, float* const* out) {
      const float *gate = in[i_gate], *up = in[i_up];
      float* y = out[o_out];
#pragma omp simd
      for (int64_t i = 0; i < n; i++) y[i] = activate<kind>(gate[i]).value * up[i];
    });
  });
}

void gated_backward(const Call& call, Pool& pool) {
  using namespace gated_backward_op;
  const Tensor &gates = call.inputs[i_gate], &ups = call.inputs[i_up], &douts = call.inputs[i_dout];
  const Tensor &dgates = call.outputs[o_dgate], &dups = call.outputs[o_dup];
  expect_floats(gates, ups, douts, dgates, dups);
#if defined(__AVX512F__)
  if (Attributes(call.attributes).kind == Activation::silu) {
    for (const Tensor* t : {&gates, &ups, &douts, &dups}) expect(t->size() == dgates.size(), "operands of one size");
    return each_lanes(dgates.size(), pool, [&](int64_t i, __mmask16 mask) {
      const __m512 gate = load_lanes(gates, i, mask), up = load_lanes(ups, i, mask), dout = load_lanes(douts, i, mask);
      const __m512 one = _mm512_set1_ps(1.f);
      const __m512 s = sigmoid_lanes(gate), slope = _mm512_mul_ps(s, _mm512_fmadd_ps(gate, _mm512_sub_ps(one, s), one));
      store_lanes(dgates, i, mask, _mm512_mul_ps(_mm512_mul_ps(dout, up), slope));
      store_lanes(dups, i, mask, _mm512_mul_ps(dout, _mm512_mul_ps(gate, s)));
    });
  }
#endif
  with_kind(Attributes(call.attributes).kind, [&]<Activation kind>() {
    map<3, 2>(call, pool, [](int64_t n, const float* const* in, float* const* out) {
      const float *gate = in[i_gate], *up = in[i_up], *dout = in[i_dout];
      float *dgate = out[o_dgate], *dup = out[o_dup];
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        const ValueAndSlope f = activate<kind>(gate[i]);
        const float d = dout[i], u = up[i];
        dgate[i] = d * u * f.slope;
        dup[i] = d * f.value;
      }
    });
  });
}

void softcap(const Call& call, Pool& pool) {
  using namespace softcap_op;
  expect_floats(call.inputs[i_x], call.outputs[o_y]);
  const float cap = static_cast<float>(Attributes(call.attributes).cap), inverse = 1.f / cap;
  map<1, 1>(call, pool, [=](int64_t n, const float* const* in, float* const* out) {
    const float* x = in[i_x];
    float* y = out[o_y];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = cap * tanh_f32(x[i] * inverse);
  });
}

void softcap_backward(const Call& call, Pool& pool) {
  using namespace softcap_backward_op;
  expect_floats(call.inputs[i_x], call.inputs[i_dy], call.outputs[o_dx]);
  const float inverse = 1.f / static_cast<float>(Attributes(call.attributes).cap);
  map<2, 1>(call, pool, [=](int64_t n, const float* const* in, float* const* out) {
    const float *x = in[i_x], *dy = in[i_dy];
    float* dx = out[o_dx];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const float t = tanh_f32(x[i] * inverse);
      dx[i] = dy[i] * (1.f - t * t);
    }
  });
}

void dropout_mask(const Call& call, Pool& pool) {
  using namespace dropout_mask_op;
  const Tensor& mask = call.outputs[o_mask];
  expect(mask.dtype == DType::i32, "a mask of i32");
  const Attributes attributes(call.attributes);
  expect(attributes.p >= 0 && attributes.p < 1, "p in [0, 1)");
  const auto threshold = static_cast<uint32_t>(std::lround(attributes.p * 0x1p16));
  constexpr int64_t kWords = kBlock / 16;  // words of the mask, each of which takes 16 random ones
  pool.ranges(mask.size(), kWords * 16, [&](int64_t begin, int64_t end, int) {
    alignas(64) uint32_t random[kBlock];
    for (int64_t at = begin; at < end; at += kWords) {
      const int64_t n = end - at < kWords ? end - at : kWords;
      philox<kBlock / 4>(random, attributes.seed, attributes.stream, static_cast<uint32_t>(4 * at), attributes.step);
      for (int64_t i = 0; i < n; i++) {
        uint32_t word = 0;
        for (uint32_t j = 0; j < 16; j++) {
          const uint32_t r = random[16 * i + j];
          word |= static_cast<uint32_t>((r & 0xffff) >= threshold) << 2 * j | static_cast<uint32_t>(r >> 16 >= threshold) << (2 * j + 1);
        }
        static_cast<uint32_t*>(mask.data)[at + i] = word;
      }
    }
  });
}

void dropout(const Call& call, Pool& pool) {
  using namespace dropout_op;
  const Tensor &x = call.inputs[i_x], &mask = call.inputs[i_mask], &out = call.outputs[o_out];
  expect_floats(x, out);
  const int64_t rows = x.rows(), columns = x.columns(), stride = (columns + 31) / 32;
  expect(x.size() == out.size(), "operands of one size");
  expect_vector(mask, DType::i32, rows * stride, "a mask of one bit per element, each row in whole words");
  const auto* words = static_cast<const uint32_t*>(mask.data);
  const float scale = static_cast<float>(Attributes(call.attributes).mask_scale);
  pool.ranges(rows, row_grain(columns), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock], result[kBlock];
    for (int64_t row = begin; row < end; row++)
      for (int64_t at = 0; at < columns; at += kBlock) {
        const int64_t n = columns - at < kBlock ? columns - at : kBlock;
        const float* in = load(x, row * columns + at, n, buffer);
        float* y = target(out, row * columns + at, result);
        for (int64_t i = 0; i < n; i++) y[i] = words[row * stride + (at + i) / 32] >> (i % 32) & 1 ? in[i] * scale : 0.f;
        store(out, row * columns + at, n, y);
      }
  });
}

}  // namespace lowrank::LOWRANK_ISA
