// What a kernel sees: dense row-major arrays and numbers. Nothing here knows of Node.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lowrank {

// The order of `dtypeCodes` in src/core/dtype.ts.
enum class DType : int32_t { f32, bf16, f16, i32, u8, i8, u4 };

// For u4, which has two elements in a byte, this is the memory of one by itself.
inline constexpr int64_t bytes_per_element(DType t) {
  return t == DType::f32 || t == DType::i32 ? 4 : t == DType::bf16 || t == DType::f16 ? 2 : 1;
}

struct Tensor {
  void* data = nullptr;  // nullptr where an optional operand is absent
  DType dtype = DType::f32;
  int32_t rank = 0;
  int64_t shape[4] = {1, 1, 1, 1};

  explicit operator bool() const { return data != nullptr; }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
  }
  // A tensor of rank ≥ 1 as a matrix: the first dimension against the rest.
  int64_t rows() const { return rank == 0 ? 1 : shape[0]; }
  int64_t columns() const {
    int64_t n = 1;
    for (int i = 1; i < rank; i++) n *= shape[i];
    return n;
  }
};

// One op to run. Operands stand in the order of the op table. ops.generated.h names their places and has a struct of the attributes of each
// op, which is made by `Attributes(call.attributes)`.
struct Call {
  const Tensor* inputs;
  const Tensor* outputs;
  const double* attributes;
};

class Pool;

using Kernel = void (*)(const Call&, Pool&);

}  // namespace lowrank
