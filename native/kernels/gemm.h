// Matrix products as ops ask for them, with or without a low-rank branch. `multiply_product` chooses who computes one: gemm.cpp with
// vectors, few_rows.cpp where there are few rows, gemm_tiles.cpp in tile registers.
#pragma once
#include "panel_product.h"

namespace lowrank::LOWRANK_ISA {

// The low-rank branch of a linear layer, or of its input gradient.
struct Branch {
  Factor down, up;   // the factors [K → r] and [r → N], as right ones
  const Tensor* h;   // [M, r]; it is written
  float scale;       // the factor of h
  Mask in, out;      // the dropout of x before `down`, or that of h·up
  float mask_scale;  // the factor of what the mask keeps, in h or else in h·up
  int64_t rank;
};

struct Product {
  Factor a, b;
  const Tensor* out;
  int64_t m, n, k;
  Form form;
  float alpha = 1;
  const Tensor* addend = nullptr;  // has out's shape, and may be out itself
  const Branch* branch = nullptr;
};

// Computes a product, and the h of its branch.
void multiply_product(const Product& p, Pool& pool);

// Where both factors lie along K and there are at most so many rows, a product is bound by reading the right factor once, and nothing is
// packed.
inline constexpr int64_t kFewRows = 8;
void multiply_few_rows(const Product& p, Pool& pool);

#if defined(__AMX_BF16__)
// Computes a product in tile registers, where its form is one of those.
void multiply_in_tiles(const Product& p, Pool& pool);
#endif

}  // namespace lowrank::LOWRANK_ISA
