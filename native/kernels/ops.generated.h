// Written by tools/generate-ops.ts from src/core/ops.table.ts. Do not edit.
#pragma once
#include <cstdint>

namespace lowrank {

enum class Op : int {
  fill,
  cast,
  add,
  mul,
  accumulate,
  matmul,
  lora_linear,
  lora_linear_backward,
  lora_gradients,
  quantize4bit,
  quantize8bit,
  quantize_rows,
  dequantize,
  add_bias,
  column_sum,
  gather_rows,
  write_rows,
  add_rows,
  slice,
  place,
  rms_norm,
  rms_norm_backward,
  layer_norm,
  layer_norm_backward,
  rope,
  activation,
  activation_backward,
  gated,
  gated_backward,
  softcap,
  softcap_backward,
  softmax,
  softmax_backward,
  attention,
  attention_backward,
  route,
  route_backward,
  group_rows,
  group_matmul,
  combine_rows,
  combine_rows_backward,
  short_conv,
  short_conv_backward,
  dropout_mask,
  dropout,
  cross_entropy,
  sum,
  sum_squares,
  argmax,
  adamw,
  adamw8bit,
  lion,
  lion8bit,
  sgd,
  adafactor,
  count
};

enum class Activation : int { silu, gelu_tanh, gelu };

namespace fill_op {
enum Out { o_out };
struct Attributes {
  double value;
  explicit Attributes(const double* numbers)
      : value(numbers[0]) {}
};
}  // namespace fill_op
namespace cast_op {
enum In { i_x };
enum Out { o_out };
}  // namespace cast_op
namespace add_op {
enum In { i_a, i_b };
enum Out { o_out };
}  // namespace add_op
namespace mul_op {
enum In { i_a, i_b };
enum Out { o_out };
}  // namespace mul_op
namespace accumulate_op {
enum In { i_x };
enum Out { o_out };
struct Attributes {
  double factor;
  explicit Attributes(const double* numbers)
      : factor(numbers[0]) {}
};
}  // namespace accumulate_op
namespace matmul_op {
enum In { i_a, i_b, i_absmax, i_constants };
enum Out { o_out };
struct Attributes {
  bool transpose_a;
  bool transpose_b;
  double alpha;
  bool accumulate;
  explicit Attributes(const double* numbers)
      : transpose_a(numbers[0] != 0),
        transpose_b(numbers[1] != 0),
        alpha(numbers[2]),
        accumulate(numbers[3] != 0) {}
};
}  // namespace matmul_op
namespace lora_linear_op {
enum In { i_x, i_weight, i_a, i_b, i_mask, i_residual, i_absmax, i_constants };
enum Out { o_y, o_h };
struct Attributes {
  double scale;
  double mask_scale;
  explicit Attributes(const double* numbers)
      : scale(numbers[0]),
        mask_scale(numbers[1]) {}
};
}  // namespace lora_linear_op
namespace lora_linear_backward_op {
enum In { i_dy, i_weight, i_a, i_b, i_mask, i_residual, i_absmax, i_constants };
enum Out { o_dx, o_dh };
struct Attributes {
  double scale;
  double mask_scale;
  explicit Attributes(const double* numbers)
      : scale(numbers[0]),
        mask_scale(numbers[1]) {}
};
}  // namespace lora_linear_backward_op
namespace lora_gradients_op {
enum In { i_x, i_h, i_dy, i_dh, i_mask };
enum Out { o_d_a, o_d_b };
struct Attributes {
  double mask_scale;
  explicit Attributes(const double* numbers)
      : mask_scale(numbers[0]) {}
};
}  // namespace lora_gradients_op
namespace quantize4bit_op {
enum In { i_x, i_constants };
enum Out { o_out, o_absmax };
}  // namespace quantize4bit_op
namespace quantize8bit_op {
enum In { i_x, i_codes };
enum Out { o_out, o_absmax };
struct Attributes {
  int64_t block_size;
  double offset;
  explicit Attributes(const double* numbers)
      : block_size(static_cast<int64_t>(numbers[0])),
        offset(numbers[1]) {}
};
}  // namespace quantize8bit_op
namespace quantize_rows_op {
enum In { i_x };
enum Out { o_out, o_absmax };
}  // namespace quantize_rows_op
namespace dequantize_op {
enum In { i_weight, i_absmax, i_constants };
enum Out { o_out };
}  // namespace dequantize_op
namespace add_bias_op {
enum In { i_x, i_bias };
enum Out { o_out };
}  // namespace add_bias_op
namespace column_sum_op {
enum In { i_x };
enum Out { o_out };
}  // namespace column_sum_op
namespace gather_rows_op {
enum In { i_x, i_rows };
enum Out { o_out };
}  // namespace gather_rows_op
namespace write_rows_op {
enum In { i_x, i_rows };
enum Out { o_out };
}  // namespace write_rows_op
namespace add_rows_op {
enum In { i_x, i_rows };
enum Out { o_out };
}  // namespace add_rows_op
namespace slice_op {
enum In { i_x };
enum Out { o_out };
struct Attributes {
  int64_t row;
  int64_t column;
  explicit Attributes(const double* numbers)
      : row(static_cast<int64_t>(numbers[0])),
        column(static_cast<int64_t>(numbers[1])) {}
};
}  // namespace slice_op
namespace place_op {
enum In { i_x };
enum Out { o_out };
struct Attributes {
  int64_t row;
  int64_t column;
  bool accumulate;
  explicit Attributes(const double* numbers)
      : row(static_cast<int64_t>(numbers[0])),
        column(static_cast<int64_t>(numbers[1])),
        accumulate(numbers[2] != 0) {}
};
}  // namespace place_op
namespace rms_norm_op {
enum In { i_x, i_weight };
enum Out { o_y, o_rstd };
struct Attributes {
  double eps;
  double offset;
  explicit Attributes(const double* numbers)
      : eps(numbers[0]),
        offset(numbers[1]) {}
};
}  // namespace rms_norm_op
namespace rms_norm_backward_op {
enum In { i_x, i_weight, i_rstd, i_dy, i_residual };
enum Out { o_dx, o_dweight };
struct Attributes {
  double offset;
  explicit Attributes(const double* numbers)
      : offset(numbers[0]) {}
};
}  // namespace rms_norm_backward_op
namespace layer_norm_op {
enum In { i_x, i_weight, i_bias };
enum Out { o_y, o_mean, o_rstd };
struct Attributes {
  double eps;
  explicit Attributes(const double* numbers)
      : eps(numbers[0]) {}
};
}  // namespace layer_norm_op
namespace layer_norm_backward_op {
enum In { i_x, i_weight, i_mean, i_rstd, i_dy, i_residual };
enum Out { o_dx, o_dweight };
}  // namespace layer_norm_backward_op
namespace rope_op {
enum In { i_x, i_cos, i_sin, i_positions };
enum Out { o_out };
struct Attributes {
  int64_t head_dim;
  bool interleaved;
  bool back;
  explicit Attributes(const double* numbers)
      : head_dim(static_cast<int64_t>(numbers[0])),
        interleaved(numbers[1] != 0),
        back(numbers[2] != 0) {}
};
}  // namespace rope_op
namespace activation_op {
enum In { i_x };
enum Out { o_y };
struct Attributes {
  Activation kind;
  explicit Attributes(const double* numbers)
      : kind(static_cast<Activation>(static_cast<int>(numbers[0]))) {}
};
}  // namespace activation_op
namespace activation_backward_op {
enum In { i_x, i_dy };
enum Out { o_dx };
struct Attributes {
  Activation kind;
  explicit Attributes(const double* numbers)
      : kind(static_cast<Activation>(static_cast<int>(numbers[0]))) {}
};
}  // namespace activation_backward_op
namespace gated_op {
enum In { i_gate, i_up };
enum Out { o_out };
struct Attributes {
  Activation kind;
  explicit Attributes(const double* numbers)
      : kind(static_cast<Activation>(static_cast<int>(numbers[0]))) {}
};
}  // namespace gated_op
namespace gated_backward_op {
enum In { i_gate, i_up, i_dout };
enum Out { o_dgate, o_dup };
struct Attributes {
  Activation kind;
  explicit Attributes(const double* numbers)
      : kind(static_cast<Activation>(static_cast<int>(numbers[0]))) {}
};
}  // namespace gated_backward_op
namespace softcap_op {
enum In { i_x };
enum Out { o_y };
struct Attributes {
  double cap;
  explicit Attributes(const double* numbers)
      : cap(numbers[0]) {}
};
}  // namespace softcap_op
namespace softcap_backward_op {
enum In { i_x, i_dy };
enum Out { o_dx };
struct Attributes {
  double cap;
  explicit Attributes(const double* numbers)
      : cap(numbers[0]) {}
};
}  // namespace softcap_backward_op
namespace softmax_op {
enum In { i_x, i_sink };
enum Out { o_y };
struct Attributes {
  int64_t offset;
  int64_t window;
  explicit Attributes(const double* numbers)
      : offset(static_cast<int64_t>(numbers[0])),
        window(static_cast<int64_t>(numbers[1])) {}
};
}  // namespace softmax_op
namespace softmax_backward_op {
enum In { i_y, i_dy };
enum Out { o_dx, o_dsink };
}  // namespace softmax_backward_op
namespace attention_op {
enum In { i_q, i_k, i_v, i_segments, i_sinks };
enum Out { o_out, o_lse };
struct Attributes {
  int64_t head_dim;
  double scale;
  int64_t window;
  double softcap;
  explicit Attributes(const double* numbers)
      : head_dim(static_cast<int64_t>(numbers[0])),
        scale(numbers[1]),
        window(static_cast<int64_t>(numbers[2])),
        softcap(numbers[3]) {}
};
}  // namespace attention_op
namespace attention_backward_op {
enum In { i_q, i_k, i_v, i_out, i_lse, i_dout, i_segments, i_sinks };
enum Out { o_dq, o_dk, o_dv, o_dsinks };
struct Attributes {
  int64_t head_dim;
  double scale;
  int64_t window;
  double softcap;
  explicit Attributes(const double* numbers)
      : head_dim(static_cast<int64_t>(numbers[0])),
        scale(numbers[1]),
        window(static_cast<int64_t>(numbers[2])),
        softcap(numbers[3]) {}
};
}  // namespace attention_backward_op
namespace route_op {
enum In { i_logits };
enum Out { o_probabilities, o_experts, o_weights };
struct Attributes {
  bool normalize;
  explicit Attributes(const double* numbers)
      : normalize(numbers[0] != 0) {}
};
}  // namespace route_op
namespace route_backward_op {
enum In { i_probabilities, i_experts, i_dweights, i_counts };
enum Out { o_dlogits };
struct Attributes {
  bool normalize;
  double balance;
  explicit Attributes(const double* numbers)
      : normalize(numbers[0] != 0),
        balance(numbers[1]) {}
};
}  // namespace route_backward_op
namespace group_rows_op {
enum In { i_experts };
enum Out { o_tokens, o_places, o_groups, o_counts };
}  // namespace group_rows_op
namespace group_matmul_op {
enum In { i_a, i_b, i_groups, i_absmax, i_constants };
enum Out { o_out };
struct Attributes {
  int64_t group;
  bool transpose_a;
  bool transpose_b;
  double alpha;
  bool accumulate;
  explicit Attributes(const double* numbers)
      : group(static_cast<int64_t>(numbers[0])),
        transpose_a(numbers[1] != 0),
        transpose_b(numbers[2] != 0),
        alpha(numbers[3]),
        accumulate(numbers[4] != 0) {}
};
}  // namespace group_matmul_op
namespace combine_rows_op {
enum In { i_x, i_places, i_weights, i_residual };
enum Out { o_out };
}  // namespace combine_rows_op
namespace combine_rows_backward_op {
enum In { i_x, i_places, i_weights, i_dout };
enum Out { o_dx, o_dweights };
}  // namespace combine_rows_backward_op
namespace short_conv_op {
enum In { i_x, i_weight, i_segments };
enum Out { o_y, o_state };
struct Attributes {
  int64_t capacity;
  explicit Attributes(const double* numbers)
      : capacity(static_cast<int64_t>(numbers[0])) {}
};
}  // namespace short_conv_op
namespace short_conv_backward_op {
enum In { i_x, i_weight, i_dy, i_segments };
enum Out { o_dx, o_dweight };
}  // namespace short_conv_backward_op
namespace dropout_mask_op {
enum Out { o_mask };
struct Attributes {
  double p;
  uint32_t seed;
  uint32_t stream;
  uint32_t step;
  explicit Attributes(const double* numbers)
      : p(numbers[0]),
        seed(static_cast<uint32_t>(numbers[1])),
        stream(static_cast<uint32_t>(numbers[2])),
        step(static_cast<uint32_t>(numbers[3])) {}
};
}  // namespace dropout_mask_op
namespace dropout_op {
enum In { i_x, i_mask };
enum Out { o_out };
struct Attributes {
  double mask_scale;
  explicit Attributes(const double* numbers)
      : mask_scale(numbers[0]) {}
};
}  // namespace dropout_op
namespace cross_entropy_op {
enum In { i_logits, i_labels, i_weights };
enum Out { o_losses, o_gradient };
struct Attributes {
  double scale;
  double softcap;
  explicit Attributes(const double* numbers)
      : scale(numbers[0]),
        softcap(numbers[1]) {}
};
}  // namespace cross_entropy_op
namespace sum_op {
enum In { i_x };
enum Out { o_out };
struct Attributes {
  double factor;
  explicit Attributes(const double* numbers)
      : factor(numbers[0]) {}
};
}  // namespace sum_op
namespace sum_squares_op {
enum In { i_x };
enum Out { o_out };
}  // namespace sum_squares_op
namespace argmax_op {
enum In { i_x };
enum Out { o_index };
}  // namespace argmax_op
namespace adamw_op {
enum In { i_gradient };
enum Out { o_parameter, o_m, o_v };
struct Attributes {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  int64_t step;
  double gradient_scale;
  explicit Attributes(const double* numbers)
      : lr(numbers[0]),
        beta1(numbers[1]),
        beta2(numbers[2]),
        eps(numbers[3]),
        weight_decay(numbers[4]),
        step(static_cast<int64_t>(numbers[5])),
        gradient_scale(numbers[6]) {}
};
}  // namespace adamw_op
namespace adamw8bit_op {
enum In { i_gradient, i_values_m, i_codes_m, i_values_v, i_codes_v };
enum Out { o_parameter, o_m, o_absmax_m, o_v, o_absmax_v };
struct Attributes {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  int64_t step;
  double gradient_scale;
  explicit Attributes(const double* numbers)
      : lr(numbers[0]),
        beta1(numbers[1]),
        beta2(numbers[2]),
        eps(numbers[3]),
        weight_decay(numbers[4]),
        step(static_cast<int64_t>(numbers[5])),
        gradient_scale(numbers[6]) {}
};
}  // namespace adamw8bit_op
namespace lion_op {
enum In { i_gradient };
enum Out { o_parameter, o_m };
struct Attributes {
  double lr;
  double beta1;
  double beta2;
  double weight_decay;
  double gradient_scale;
  explicit Attributes(const double* numbers)
      : lr(numbers[0]),
        beta1(numbers[1]),
        beta2(numbers[2]),
        weight_decay(numbers[3]),
        gradient_scale(numbers[4]) {}
};
}  // namespace lion_op
namespace lion8bit_op {
enum In { i_gradient, i_values, i_codes };
enum Out { o_parameter, o_m, o_absmax };
struct Attributes {
  double lr;
  double beta1;
  double beta2;
  double weight_decay;
  double gradient_scale;
  explicit Attributes(const double* numbers)
      : lr(numbers[0]),
        beta1(numbers[1]),
        beta2(numbers[2]),
        weight_decay(numbers[3]),
        gradient_scale(numbers[4]) {}
};
}  // namespace lion8bit_op
namespace sgd_op {
enum In { i_gradient };
enum Out { o_parameter };
struct Attributes {
  double lr;
  double weight_decay;
  double gradient_scale;
  explicit Attributes(const double* numbers)
      : lr(numbers[0]),
        weight_decay(numbers[1]),
        gradient_scale(numbers[2]) {}
};
}  // namespace sgd_op
namespace adafactor_op {
enum In { i_gradient };
enum Out { o_parameter, o_row, o_column, o_v };
struct Attributes {
  double lr;
  double beta2;
  double eps;
  double clip_threshold;
  double weight_decay;
  double gradient_scale;
  explicit Attributes(const double* numbers)
      : lr(numbers[0]),
        beta2(numbers[1]),
        eps(numbers[2]),
        clip_threshold(numbers[3]),
        weight_decay(numbers[4]),
        gradient_scale(numbers[5]) {}
};
}  // namespace adafactor_op

struct OpInfo {
  const char* name;
  int inputs, outputs, attributes;
};
inline constexpr OpInfo op_infos[] = {
    {"fill", 0, 1, 1},
    {"cast", 1, 1, 0},
    {"add", 2, 1, 0},
    {"mul", 2, 1, 0},
    {"accumulate", 1, 1, 1},
    {"matmul", 4, 1, 4},
    {"loraLinear", 8, 2, 2},
    {"loraLinearBackward", 8, 2, 2},
    {"loraGradients", 5, 2, 1},
    {"quantize4bit", 2, 2, 0},
    {"quantize8bit", 2, 2, 2},
    {"quantizeRows", 1, 2, 0},
    {"dequantize", 3, 1, 0},
    {"addBias", 2, 1, 0},
    {"columnSum", 1, 1, 0},
    {"gatherRows", 2, 1, 0},
    {"writeRows", 2, 1, 0},
    {"addRows", 2, 1, 0},
    {"slice", 1, 1, 2},
    {"place", 1, 1, 3},
    {"rmsNorm", 2, 2, 2},
    {"rmsNormBackward", 5, 2, 1},
    {"layerNorm", 3, 3, 1},
    {"layerNormBackward", 6, 2, 0},
    {"rope", 4, 1, 3},
    {"activation", 1, 1, 1},
    {"activationBackward", 2, 1, 1},
    {"gated", 2, 1, 1},
    {"gatedBackward", 3, 2, 1},
    {"softcap", 1, 1, 1},
    {"softcapBackward", 2, 1, 1},
    {"softmax", 2, 1, 2},
    {"softmaxBackward", 2, 2, 0},
    {"attention", 5, 2, 4},
    {"attentionBackward", 8, 4, 4},
    {"route", 1, 3, 1},
    {"routeBackward", 4, 1, 2},
    {"groupRows", 1, 4, 0},
    {"groupMatmul", 5, 1, 5},
    {"combineRows", 4, 1, 0},
    {"combineRowsBackward", 4, 2, 0},
    {"shortConv", 3, 2, 1},
    {"shortConvBackward", 4, 2, 0},
    {"dropoutMask", 0, 1, 4},
    {"dropout", 2, 1, 1},
    {"crossEntropy", 3, 2, 2},
    {"sum", 1, 1, 1},
    {"sumSquares", 1, 1, 0},
    {"argmax", 1, 1, 0},
    {"adamw", 1, 3, 7},
    {"adamw8bit", 5, 5, 7},
    {"lion", 1, 2, 5},
    {"lion8bit", 3, 3, 5},
    {"sgd", 1, 1, 3},
    {"adafactor", 1, 4, 6},
};

// Places in the constants of a 4-bit weight, and how many numbers they are at least.
namespace four_bit {
inline constexpr int64_t kBlockSize = 0;
inline constexpr int64_t kValues = 1;
inline constexpr int64_t kNestedBlockSize = 17;
inline constexpr int64_t kOffset = 18;
inline constexpr int64_t kNestedValues = 19;
inline constexpr int64_t kNestedAbsmax = 275;
inline constexpr int64_t kSize = 17, kNestedSize = 275;
}  // namespace four_bit

}  // namespace lowrank
