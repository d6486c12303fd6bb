// The ops that are matrix products, alone or with the low-rank branch of a linear layer or of its input gradient.
#include "gemm.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// The codes of a weight, or none where its elements are floats.
Codes expect_weight(const Tensor& weight, const Tensor& absmax, const Tensor& constants) {
  if (is_quantized(weight)) return Codes::of(weight, absmax, constants);
  expect_floats(weight);
  return {};
}

const Tensor* expect_residual(const Tensor& residual, const Tensor& out) {
  if (!residual) return nullptr;
  expect(is_float(residual) && (!out || same_shape(residual, out)), "a residual of the result's shape");
  return &residual;
}

// Computes out = alpha · op(a) · op(b) (+ out), as the op matmul has it.
void multiply_matrices(const Tensor& a, const Tensor& b, const Tensor& out, const Codes& codes, bool ta, bool tb, double alpha,
                       bool accumulate, Pool& pool) {
  const int64_t m = a.shape[ta ? 1 : 0], k = a.shape[ta ? 0 : 1], n = b.shape[tb ? 0 : 1];
  if (b.shape[tb ? 1 : 0] != k || out.shape[0] != m || out.shape[1] != n)
    fail("a [%lld, %lld], b [%lld, %lld] and out [%lld, %lld] do not fit", (long long)a.shape[0], (long long)a.shape[1],
         (long long)b.shape[0], (long long)b.shape[1], (long long)out.shape[0], (long long)out.shape[1]);
  multiply_product({.a = Factor::left(a, ta),
                    .b = Factor::weight(b, tb, codes),
                    .out = &out,
                    .m = m,
                    .n = n,
                    .k = k,
                    .form = form_of(a, b),
                    .alpha = static_cast<float>(alpha),
                    .addend = accumulate ? &out : nullptr},
                   pool);
}

// Some rows of a matrix.
Tensor rows_of(Tensor matrix, int64_t begin, int64_t end) {
  matrix.data = static_cast<char*>(matrix.data) + begin * matrix.shape[1] * bytes_per_element(matrix.dtype);
  matrix.shape[0] = end - begin;
  return matrix;
}

}  // namespace

void matmul(const Call& call, Pool& pool) {
  using namespace matmul_op;
  const Tensor &a = call.inputs[i_a], &b = call.inputs[i_b], &out = call.outputs[o_out];
  const auto [ta, tb, alpha, accumulate] = Attributes(call.attributes);
  expect_floats(a, out);
  const Codes codes = expect_weight(b, call.inputs[i_absmax], call.inputs[i_constants]);
  expect(a.rank == 2 && b.rank == 2 && out.rank == 2, "matrices");
  multiply_matrices(a, b, out, codes, ta, tb, alpha, accumulate, pool);
}

void group_matmul(const Call& call, Pool& pool) {
  using namespace group_matmul_op;
  const Tensor &a = call.inputs[i_a], &b = call.inputs[i_b], &groups = call.inputs[i_groups], &out = call.outputs[o_out];
  const auto [group, ta, tb, alpha, accumulate] = Attributes(call.attributes);
  expect_floats(a, out);
  const Codes codes = expect_weight(b, call.inputs[i_absmax], call.inputs[i_constants]);
  expect(a.rank == 2 && b.rank == 2 && out.rank == 2, "matrices");
  expect((ta ? b : out).shape[0] == a.shape[0] && !(ta && is_quantized(b)), "as many rows in both");
  expect(groups.dtype == DType::i32 && groups.rank == 1 && group >= 0 && group + 1 < groups.shape[0], "an i32 group, inside groups");
  const auto* bounds = static_cast<const int32_t*>(groups.data) + group;
  const int64_t begin = bounds[0], end = bounds[1];
  if (begin < 0 || end < begin || end > a.shape[0])
    fail("group %lld, %lld … %lld, is not inside %lld rows", (long long)group, (long long)begin, (long long)end, (long long)a.shape[0]);
  const Tensor some = rows_of(a, begin, end);
  if (!ta) return multiply_matrices(some, b, rows_of(out, begin, end), codes, false, tb, alpha, accumulate, pool);
  expect(!tb, "no product of two transposed matrices");
  multiply_matrices(some, rows_of(b, begin, end), out, codes, true, false, alpha, accumulate, pool);
}

void lora_linear(const Call& call, Pool& pool) {
  using namespace lora_linear_op;
  const auto [scale, mask_scale] = Attributes(call.attributes);
  const Tensor &x = call.inputs[i_x], &weight = call.inputs[i_weight], &A = call.inputs[i_a], &B = call.inputs[i_b];
  const Tensor &y = call.outputs[o_y], &h = call.outputs[o_h];
  const int64_t rows = x.rows(), in = x.columns(), out = weight.rows(), rank = A.rows();
  expect_matrix(x, rows, in, "x");
  expect(weight.rank == 2 && weight.columns() == in, "a weight [out, in]");
  const Codes codes = expect_weight(weight, call.inputs[i_absmax], call.inputs[i_constants]);
  expect_matrix(A, rank, in, "A");
  expect_matrix(B, out, rank, "B");
  if (y) expect_matrix(y, rows, out, "y");
  expect_matrix(h, rows, rank, "h");
  const Branch branch{.down = Factor::right(A, true),
                      .up = Factor::right(B, true),
                      .h = &h,
                      .scale = static_cast<float>(scale),
                      .in = expect_mask(call.inputs[i_mask], rows, in),
                      .out = {},
                      .mask_scale = static_cast<float>(mask_scale),
                      .rank = rank};
  multiply_product({.a = Factor::left(x, false),
                    .b = Factor::weight(weight, true, codes),
                    .out = &y,
                    .m = rows,
                    .n = y ? out : 0,
                    .k = in,
                    .form = form_of(x, weight),
                    .addend = expect_residual(call.inputs[i_residual], y),
                    .branch = &branch},
                   pool);
}

void lora_linear_backward(const Call& call, Pool& pool) {
  using namespace lora_linear_backward_op;
  const auto [scale, mask_scale] = Attributes(call.attributes);
  const Tensor &dy = call.inputs[i_dy], &weight = call.inputs[i_weight], &A = call.inputs[i_a], &B = call.inputs[i_b];
  const Tensor &dx = call.outputs[o_dx], &dh = call.outputs[o_dh];
  const int64_t rows = dy.rows(), in = weight.columns(), out = dy.columns(), rank = A.rows();
  expect_matrix(dy, rows, out, "dy");
  expect(weight.rank == 2 && weight.rows() == out, "a weight [out, in]");
  const Codes codes = expect_weight(weight, call.inputs[i_absmax], call.inputs[i_constants]);
  expect_matrix(A, rank, in, "A");
  expect_matrix(B, out, rank, "B");
  expect_matrix(dx, rows, in, "dx");
  expect_matrix(dh, rows, rank, "dh");
  const Branch branch{.down = Factor::right(B, false),
                      .up = Factor::right(A, false),
                      .h = &dh,
                      .scale = static_cast<float>(scale),
                      .in = {},
                      .out = expect_mask(call.inputs[i_mask], rows, in),
                      .mask_scale = static_cast<float>(mask_scale),
                      .rank = rank};
  multiply_product({.a = Factor::left(dy, false),
                    .b = Factor::weight(weight, false, codes),
                    .out = &dx,
                    .m = rows,
                    .n = in,
                    .k = out,
                    .form = form_of(dy, weight),
                    .addend = expect_residual(call.inputs[i_residual], dx),
                    .branch = &branch},
                   pool);
}

}  // namespace lowrank::LOWRANK_ISA
