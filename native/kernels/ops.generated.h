// Written by tools/generate-ops.ts from src/core/ops.table.ts. Do not edit.
#pragma once

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
  rope,
  activation,
  activation_backward,
  gated,
  gated_backward,
  softmax,
  softmax_backward,
  attention,
  attention_backward,
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

namespace fill_op {
enum Out { o_out };
enum Attribute { a_value };
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
enum Attribute { a_factor };
}  // namespace accumulate_op
namespace matmul_op {
enum In { i_a, i_b, i_absmax, i_constants };
enum Out { o_out };
enum Attribute { a_transpose_a, a_transpose_b, a_alpha, a_accumulate };
}  // namespace matmul_op
namespace lora_linear_op {
enum In { i_x, i_weight, i_a, i_b, i_mask, i_residual, i_absmax, i_constants };
enum Out { o_y, o_h };
enum Attribute { a_scale, a_mask_scale };
}  // namespace lora_linear_op
namespace lora_linear_backward_op {
enum In { i_dy, i_weight, i_a, i_b, i_mask, i_residual, i_absmax, i_constants };
enum Out { o_dx, o_dh };
enum Attribute { a_scale, a_mask_scale };
}  // namespace lora_linear_backward_op
namespace lora_gradients_op {
enum In { i_x, i_h, i_dy, i_dh, i_mask };
enum Out { o_d_a, o_d_b };
enum Attribute { a_mask_scale };
}  // namespace lora_gradients_op
namespace quantize4bit_op {
enum In { i_x, i_constants };
enum Out { o_out, o_absmax };
}  // namespace quantize4bit_op
namespace quantize8bit_op {
enum In { i_x, i_codes };
enum Out { o_out, o_absmax };
enum Attribute { a_block_size, a_offset };
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
enum Attribute { a_row, a_column };
}  // namespace slice_op
namespace place_op {
enum In { i_x };
enum Out { o_out };
enum Attribute { a_row, a_column, a_accumulate };
}  // namespace place_op
namespace rms_norm_op {
enum In { i_x, i_weight };
enum Out { o_y, o_rstd };
enum Attribute { a_eps, a_offset };
}  // namespace rms_norm_op
namespace rms_norm_backward_op {
enum In { i_x, i_weight, i_rstd, i_dy, i_residual };
enum Out { o_dx, o_dweight };
enum Attribute { a_offset };
}  // namespace rms_norm_backward_op
namespace rope_op {
enum In { i_x, i_cos, i_sin, i_positions };
enum Out { o_out };
enum Attribute { a_head_dim, a_sign };
}  // namespace rope_op
namespace activation_op {
enum In { i_x };
enum Out { o_y };
enum Attribute { a_kind };
}  // namespace activation_op
namespace activation_backward_op {
enum In { i_x, i_dy };
enum Out { o_dx };
enum Attribute { a_kind };
}  // namespace activation_backward_op
namespace gated_op {
enum In { i_gate, i_up };
enum Out { o_out };
enum Attribute { a_kind };
}  // namespace gated_op
namespace gated_backward_op {
enum In { i_gate, i_up, i_dout };
enum Out { o_dgate, o_dup };
enum Attribute { a_kind };
}  // namespace gated_backward_op
namespace softmax_op {
enum In { i_x };
enum Out { o_y };
enum Attribute { a_offset, a_window };
}  // namespace softmax_op
namespace softmax_backward_op {
enum In { i_y, i_dy };
enum Out { o_dx };
}  // namespace softmax_backward_op
namespace attention_op {
enum In { i_q, i_k, i_v, i_segments };
enum Out { o_out, o_lse };
enum Attribute { a_head_dim, a_scale, a_window };
}  // namespace attention_op
namespace attention_backward_op {
enum In { i_q, i_k, i_v, i_out, i_lse, i_dout, i_segments };
enum Out { o_dq, o_dk, o_dv };
enum Attribute { a_head_dim, a_scale, a_window };
}  // namespace attention_backward_op
namespace dropout_mask_op {
enum Out { o_mask };
enum Attribute { a_p, a_seed, a_stream, a_step };
}  // namespace dropout_mask_op
namespace dropout_op {
enum In { i_x, i_mask };
enum Out { o_out };
enum Attribute { a_mask_scale };
}  // namespace dropout_op
namespace cross_entropy_op {
enum In { i_logits, i_labels, i_weights };
enum Out { o_losses, o_gradient };
enum Attribute { a_scale };
}  // namespace cross_entropy_op
namespace sum_op {
enum In { i_x };
enum Out { o_out };
enum Attribute { a_factor };
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
enum Attribute { a_lr, a_beta1, a_beta2, a_eps, a_weight_decay, a_step, a_gradient_scale };
}  // namespace adamw_op
namespace adamw8bit_op {
enum In { i_gradient, i_values_m, i_codes_m, i_values_v, i_codes_v };
enum Out { o_parameter, o_m, o_absmax_m, o_v, o_absmax_v };
enum Attribute { a_lr, a_beta1, a_beta2, a_eps, a_weight_decay, a_step, a_gradient_scale };
}  // namespace adamw8bit_op
namespace lion_op {
enum In { i_gradient };
enum Out { o_parameter, o_m };
enum Attribute { a_lr, a_beta1, a_beta2, a_weight_decay, a_gradient_scale };
}  // namespace lion_op
namespace lion8bit_op {
enum In { i_gradient, i_values, i_codes };
enum Out { o_parameter, o_m, o_absmax };
enum Attribute { a_lr, a_beta1, a_beta2, a_weight_decay, a_gradient_scale };
}  // namespace lion8bit_op
namespace sgd_op {
enum In { i_gradient };
enum Out { o_parameter };
enum Attribute { a_lr, a_weight_decay, a_gradient_scale };
}  // namespace sgd_op
namespace adafactor_op {
enum In { i_gradient };
enum Out { o_parameter, o_row, o_column, o_v };
enum Attribute { a_lr, a_beta2, a_eps, a_clip_threshold, a_weight_decay, a_gradient_scale };
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
    {"rope", 4, 1, 2},
    {"activation", 1, 1, 1},
    {"activationBackward", 2, 1, 1},
    {"gated", 2, 1, 1},
    {"gatedBackward", 3, 2, 1},
    {"softmax", 1, 1, 2},
    {"softmaxBackward", 2, 1, 0},
    {"attention", 4, 2, 3},
    {"attentionBackward", 7, 3, 3},
    {"dropoutMask", 0, 1, 4},
    {"dropout", 2, 1, 1},
    {"crossEntropy", 3, 2, 1},
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

}  // namespace lowrank
