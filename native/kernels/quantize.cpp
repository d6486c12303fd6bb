// Numbers become codes of 4 or 8 bits, and codes numbers. Codes and scales equal those of bitsandbytes bit for bit, as every step is
// rounded as there.
#include <array>
#include <vector>

#include "quantized.h"

namespace lowrank::LOWRANK_ISA {

namespace {

constexpr float kSmallest = 1e-38f, kSmallestRow = 1e-36f;

// Finds the nearest of sixteen values.
struct Nearest {
  std::array<float, 15> middles;    // between neighbours of the values in ascending order
  std::array<uint8_t, 16> codes{};  // the codes of the values in that order

  explicit Nearest(const float* values) {
    for (int i = 0; i < 16; i++) codes[i] = static_cast<uint8_t>(i);
    std::stable_sort(codes.begin(), codes.end(), [&](int a, int b) { return values[a] < values[b]; });
    for (int i = 0; i < 15; i++) middles[i] = (values[codes[i]] + values[codes[i + 1]]) * 0.5f;
  }

  // The codes of numbers in [−1, 1] or NaN.
  void of(const float* __restrict x, int64_t n, uint8_t* __restrict out) const {
    int32_t order[kBlock + 1];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      int32_t below = 0;
      for (int m = 0; m < 15; m++) below += middles[m] >= x[i] ? 0 : 1;
      order[i] = below;
    }
    for (int64_t i = 0; i < n; i++) out[i] = codes[order[i]];
  }
};

// The largest magnitude of the numbers, or NaN where one of them is.
float largest(const float* __restrict x, int64_t n) {
  int32_t most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < n; i++) most = std::max(most, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  return std::bit_cast<float>(most);
}

void expect_any_floats(const Tensor& t) { expect(is_float(t) || t.dtype == DType::f16, "f32, bf16 or f16 numbers"); }

inline float within_one(float x) { return x < -1.f ? -1.f : x > 1.f ? 1.f : x; }

}  // namespace

void quantize4bit(const Call& call, Pool& pool) {
  using namespace quantize4bit_op;
  const Tensor &x = call.inputs[i_x], &constants = call.inputs[i_constants], &out = call.outputs[o_out], &absmax = call.outputs[o_absmax];
  expect_any_floats(x);
  const int64_t size = x.size();
  expect(constants.dtype == DType::f32 && constants.size() >= four_bit::kSize, "constants of u4 codes");
  const int log2 = log2_of_block(*f32_at(constants, four_bit::kBlockSize));
  const int64_t block = int64_t{1} << log2;
  expect(out.dtype == DType::u4 && out.size() == size, "a u4 code for each element");
  expect_vector(absmax, DType::f32, pieces_of(size, log2), "an f32 absmax for each block");
  const Nearest nearest(f32_at(constants, four_bit::kValues));
  auto* codes = static_cast<uint8_t*>(out.data);
  pool.ranges(size, std::max(block, kGrain), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock], scaled[kBlock + 1];
    uint8_t wide[kBlock + 1];
    for (int64_t first = begin; first < end; first += block) {
      const int64_t n = std::min(block, end - first);
      float most = 0.f;
      for (int64_t i = 0; i < n; i += kBlock) {
        const float part = largest(load(x, first + i, std::min(kBlock, n - i), buffer), std::min(kBlock, n - i));
        if (!(part <= most)) most = part;
      }
      const bool whole = n == block;
      const float divisor = most < kSmallest ? kSmallest : most;
      f32_at(absmax, 0)[first >> log2] = whole ? most : divisor;
      const float factor = 1.f / divisor;
      for (int64_t i = 0; i < n; i += kBlock) {
        const int64_t some = std::min(kBlock, n - i);
        const float* numbers = load(x, first + i, some, buffer);
        if (whole)
          for (int64_t j = 0; j < some; j++) scaled[j] = within_one(numbers[j] * factor);
        else
          for (int64_t j = 0; j < some; j++) scaled[j] = within_one(numbers[j] / divisor);
        scaled[some] = 0.f;  // the second of the last pair, where there is an odd number of them
        nearest.of(scaled, some + 1, wide);
        for (int64_t j = 0; j < some; j += 2) codes[(first + i + j) / 2] = static_cast<uint8_t>(wide[j] << 4 | wide[j + 1]);
      }
    }
  });
}

void quantize8bit(const Call& call, Pool& pool) {
  using namespace quantize8bit_op;
  const Tensor &x = call.inputs[i_x], &code_of_bin = call.inputs[i_codes], &out = call.outputs[o_out], &absmax = call.outputs[o_absmax];
  const Attributes attributes(call.attributes);
  const int log2 = log2_of_block(static_cast<float>(attributes.block_size));
  const auto offset = static_cast<float>(attributes.offset);
  const int64_t size = x.size(), block = int64_t{1} << log2;
  expect_vector(x, DType::f32, size, "f32 numbers");
  expect_vector(code_of_bin, DType::u8, kBins, "65536 u8 codes of bins");
  expect_vector(out, DType::u8, size, "a u8 code for each number");
  expect_vector(absmax, DType::f32, pieces_of(size, log2), "an f32 absmax for each block");
  pool.ranges(size, std::max(block, kGrain), [&](int64_t begin, int64_t end, int) {
    std::vector<float> shifted(static_cast<size_t>(block));
    for (int64_t first = begin; first < end; first += block) {
      const int64_t n = std::min(block, end - first);
      const float* numbers = f32_at(x, first);
      for (int64_t i = 0; i < n; i++) shifted[i] = numbers[i] - offset;
      f32_at(absmax, 0)[first >> log2] =
          encode_bins(shifted.data(), n, static_cast<uint8_t*>(code_of_bin.data), static_cast<uint8_t*>(out.data) + first);
    }
  });
}

void quantize_rows(const Call& call, Pool& pool) {
  using namespace quantize_rows_op;
  const Tensor &x = call.inputs[i_x], &out = call.outputs[o_out], &absmax = call.outputs[o_absmax];
  expect_any_floats(x);
  expect(x.rank == 2 && out.dtype == DType::i8 && same_shape(x, out), "a matrix of floats and one of i8");
  expect_vector(absmax, DType::f32, x.rows(), "an f32 absmax for each row");
  const int64_t columns = x.columns();
  pool.ranges(x.rows(), row_grain(columns), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock];
    for (int64_t row = begin; row < end; row++) {
      float most = 0.f;
      const auto each = [&](auto&& body) {
        for (int64_t i = 0; i < columns; i += kBlock) {
          const int64_t n = std::min(kBlock, columns - i), at = row * columns + i;
          body(load(x, at, n, buffer), n, static_cast<int8_t*>(out.data) + at);
        }
      };
      each([&](const float* numbers, int64_t n, int8_t*) { most = std::max(most, largest(numbers, n)); });
      f32_at(absmax, 0)[row] = most;
      const float factor = 1.f / std::max(most, kSmallestRow) * 127.f;
      each([&](const float* __restrict numbers, int64_t n, int8_t* __restrict codes) {
        for (int64_t i = 0; i < n; i++) {
          const float scaled = numbers[i] * factor, above = scaled > -127.f ? scaled : -127.f;  // this makes NaN −127 as well
          codes[i] = static_cast<int8_t>(std::nearbyint(above < 127.f ? above : 127.f));
        }
      });
    }
  });
}

void dequantize(const Call& call, Pool& pool) {
  using namespace dequantize_op;
  const Tensor &weight = call.inputs[i_weight], &out = call.outputs[o_out];
  const Codes codes = Codes::of(weight, call.inputs[i_absmax], call.inputs[i_constants]);
  expect_any_floats(out);
  expect(same_shape(weight, out), "a result of the weight's shape");
  pool.ranges(weight.size(), kGrain, [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = std::min(kBlock, end - at);
      float* numbers = target(out, at, buffer);
      codes.decode(at, n, numbers);
      store(out, at, n, numbers);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA
