// The kernels of every op, a set of them for each instruction set. A source that opens `namespace lowrank::LOWRANK_ISA` is compiled once
// for each (tools/build-native.mjs defines LOWRANK_ISA). All others are compiled once, for the oldest machine.
#pragma once
#include "ops.generated.h"
#include "pool.h"
#include "tensor.h"

// One kernel per op of src/core/ops.table.ts, by its name there in snake case.
#define LOWRANK_KERNELS(X)                                                                                                         \
  X(fill) X(cast) X(add) X(mul) X(accumulate) X(matmul) X(lora_linear) X(lora_linear_backward) X(lora_gradients) X(quantize4bit)   \
  X(quantize8bit) X(quantize_rows) X(dequantize) X(add_bias) X(column_sum) X(gather_rows) X(write_rows) X(add_rows) X(slice)       \
  X(place) X(rms_norm) X(rms_norm_backward) X(layer_norm) X(layer_norm_backward) X(rope) X(activation) X(activation_backward)      \
  X(gated) X(gated_backward) X(softcap) X(softcap_backward) X(softmax) X(softmax_backward) X(attention) X(attention_backward)      \
  X(route) X(route_backward) X(group_rows) X(group_matmul) X(combine_rows) X(combine_rows_backward) X(short_conv)                  \
  X(short_conv_backward) X(dropout_mask) X(dropout) X(cross_entropy) X(sum) X(sum_squares) X(argmax) X(adamw) X(adamw8bit)         \
  X(lion) X(lion8bit) X(sgd) X(adafactor)

namespace lowrank {

// Ends an op with an error that the next `sync` or `read` reports. It takes formats of printf, and must not be called inside a parallel
// section.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

inline bool is_float(const Tensor& t) { return t.dtype == DType::f32 || t.dtype == DType::bf16; }
inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; i++)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

inline void expect(bool condition, const char* what) {
  if (!condition) fail("expected %s", what);
}
template <class... T>
void expect_floats(const T&... tensors) {
  expect((is_float(tensors) && ...), "f32 or bf16 operands");
}
// Checks that a tensor has exactly `size` elements of the given type.
inline void expect_vector(const Tensor& t, DType dtype, int64_t size, const char* what) {
  expect(t.dtype == dtype && t.size() == size, what);
}
// Checks that `rows` names `count` rows of a matrix that has `limit` of them.
inline const int32_t* expect_rows(const Tensor& rows, int64_t count, int64_t limit, const char* name) {
  expect_vector(rows, DType::i32, count, "one i32 row number per row");
  const auto* index = static_cast<const int32_t*>(rows.data);
  for (int64_t i = 0; i < count; i++)
    if (index[i] < 0 || index[i] >= limit)
      fail("%s[%lld] = %d is outside [0, %lld)", name, static_cast<long long>(i), index[i], static_cast<long long>(limit));
  return index;
}

namespace LOWRANK_ISA {

#define LOWRANK_DECLARE(op) void op(const Call&, Pool&);
LOWRANK_KERNELS(LOWRANK_DECLARE)
#undef LOWRANK_DECLARE

}  // namespace LOWRANK_ISA
}  // namespace lowrank
