// What a matrix product is made of, with or without a low-rank branch.
#pragma once
#include "gemm.h"

namespace lowrank::LOWRANK_ISA {

// The branch of a linear layer and of its input gradient.
struct Branch {
  Factor down, up;   // [K → r] and [r → N], as right factors
  const Tensor* h;   // [M, r], written
  float scale;       // of h
  Mask in, out;      // dropout of x before `down`, or of h·up
  float mask_scale;  // of what the mask keeps: in h, or else in h·up
  int64_t rank;
};

struct Product {
  Factor a, b;
  const Tensor* out;
  int64_t m, n, k;
  Form form;
  float alpha = 1;
  const Tensor* addend = nullptr;  // of out's shape, or out itself
  const Branch* branch = nullptr;
};

// The product, its branch's h included.
void multiply_product(const Product& p, Pool& pool);

// Products with at most so many rows, against rows of K, are bound by reading the right factor once: no packing.
inline constexpr int64_t kFewRows = 8;
void multiply_few_rows(const Product& p, Pool& pool);

#if defined(__AMX_BF16__)
// The product in tile registers, of a form that is computed there.
void multiply_in_tiles(const Product& p, Pool& pool);
#endif

}  // namespace lowrank::LOWRANK_ISA
