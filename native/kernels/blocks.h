// Operands of any float dtype as f32: kernels work on blocks that fit the first-level cache. A block is widened when it is loaded and
// rounded when it is stored.
#pragma once
#include "lanes.h"

namespace lowrank::LOWRANK_ISA {

// Hides a float or a vector in its register from the compiler, so that it does not join a product and a sum across it.
#if defined(__x86_64__)
#define LOWRANK_OPAQUE(value) asm volatile("" : "+x"(value))
#else
#define LOWRANK_OPAQUE(value) asm volatile("" : "+w"(value))
#endif

// The elements of a block, of which three operands fit a cache of 32 KiB.
inline constexpr int64_t kBlock = 1024;
// The elements of a piece of work for one thread, which pay for waking it.
inline constexpr int64_t kGrain = 32 * kBlock;

inline float from_bf16(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

// Rounds a number to bf16, to nearest even; NaN stays NaN.
inline uint16_t to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((u & 0x7fffffff) > 0x7f800000 ? (u >> 16) | 0x40 : rounded);
}

inline float from_f16(uint16_t h) {
  // The product is exact, for subnormal numbers too.
  const float scaled = std::bit_cast<float>(static_cast<uint32_t>(h & 0x7fff) << 13) * 0x1p112f;
  const uint32_t magnitude = std::bit_cast<uint32_t>(scaled) | (scaled >= 65536.f ? 0x7f800000u : 0u);
  return std::bit_cast<float>(magnitude | static_cast<uint32_t>(h & 0x8000) << 16);
}

// Rounds a number to f16, to nearest even; overflow becomes infinity, NaN stays NaN.
inline uint16_t to_f16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x), sign = (u >> 16) & 0x8000, magnitude = u & 0x7fffffff;
  const uint32_t normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - 0x38000000) >> 13;
  // The last place of ½ is 2⁻²⁴, as that of the subnormal numbers of f16, so that the addition rounds to it.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  uint32_t half = magnitude < 0x38800000 ? subnormal : normal;
  half = magnitude >= 0x477ff000 ? 0x7c00 : half;
  half = magnitude > 0x7f800000 ? 0x7e00 : half;
  return static_cast<uint16_t>(sign | half);
}

// The `n` numbers of a tensor from `begin` on: its own memory where it is f32, otherwise a widened copy in `buffer`.
inline const float* load(const Tensor& t, int64_t begin, int64_t n, float* __restrict buffer) {
  if (t.dtype == DType::f32) return f32_at(t, begin);
  const uint16_t* __restrict x = half_at(t, begin);
  if (t.dtype == DType::bf16)
    for (int64_t i = 0; i < n; i++) buffer[i] = from_bf16(x[i]);
  else
    for (int64_t i = 0; i < n; i++) buffer[i] = from_f16(x[i]);
  return buffer;
}

// Where to put results for a tensor from `begin` on: its own memory where it is f32, otherwise `buffer`, from which `store` takes them.
inline float* target(const Tensor& t, int64_t begin, float* buffer) { return t.dtype == DType::f32 ? f32_at(t, begin) : buffer; }

// Rounds `n` results into a tensor that is not f32. (The processor's own rounding to bf16 makes subnormal numbers 0.)
inline void store(const Tensor& t, int64_t begin, int64_t n, const float* __restrict values) {
  if (t.dtype == DType::f32) return;
  uint16_t* __restrict y = half_at(t, begin);
  if (t.dtype == DType::bf16)
#if defined(__AVX512BF16__)
    for (int64_t i = 0; i < n; i += 16) {
      const __mmask16 mask = first(n - i);
      _mm256_mask_storeu_epi16(y + i, mask, round_lanes(_mm512_maskz_loadu_ps(mask, values + i)));
    }
#else
    for (int64_t i = 0; i < n; i++) y[i] = to_bf16(values[i]);
#endif
  else
    for (int64_t i = 0; i < n; i++) y[i] = to_f16(values[i]);
}

// Copies `n` numbers between tensors and converts them where the dtypes differ.
inline void copy(const Tensor& from, int64_t from_begin, const Tensor& to, int64_t to_begin, int64_t n) {
  if (from.dtype == to.dtype) {
    const int64_t bytes = bytes_per_element(from.dtype);
    std::memcpy(static_cast<char*>(to.data) + to_begin * bytes, static_cast<char*>(from.data) + from_begin * bytes, n * bytes);
    return;
  }
  alignas(64) float buffer[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t count = n - i < kBlock ? n - i : kBlock;
    const float* x = load(from, from_begin + i, count, buffer);
    if (to.dtype == DType::f32) {
      std::memcpy(f32_at(to, to_begin + i), x, count * sizeof(float));
    } else {
      store(to, to_begin + i, count, x);
    }
  }
}

// Runs body(n, inputs, outputs) over all elements, block by block. All operands must have the size of the first output. With `ReadsOutput`
// the one output is loaded before. The body must treat each element by itself, since operands may share memory.
template <int Inputs, int Outputs, bool ReadsOutput = false, class Body>
void map(const Call& call, Pool& pool, const Body& body) {
  const int64_t size = call.outputs[0].size();
  for (int i = 0; i < Inputs; i++) expect(call.inputs[i].size() == size, "operands of one size");
  for (int i = 0; i < Outputs; i++) expect(call.outputs[i].size() == size, "operands of one size");
  pool.ranges(size, kGrain, [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffers[Inputs + Outputs][kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      const float* in[Inputs];
      float* out[Outputs];
      for (int i = 0; i < Inputs; i++) in[i] = load(call.inputs[i], at, n, buffers[i]);
      for (int i = 0; i < Outputs; i++) out[i] = target(call.outputs[i], at, buffers[Inputs + i]);
      if (ReadsOutput) load(call.outputs[0], at, n, buffers[Inputs]);
      body(n, in, out);
      for (int i = 0; i < Outputs; i++) store(call.outputs[i], at, n, out[i]);
    }
  });
}

// How many rows of `columns` elements make a piece of work.
inline int64_t row_grain(int64_t columns) { return columns >= kGrain ? 1 : kGrain / (columns < 1 ? 1 : columns); }

}  // namespace lowrank::LOWRANK_ISA
