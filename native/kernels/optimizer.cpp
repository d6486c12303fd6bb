#include <cmath>

#include "blocks.h"

namespace lowrank::LOWRANK_ISA {

void adamw(const Call& call, Pool& pool) {
  using namespace adamw_op;
  const Tensor &gradient = call.inputs[i_gradient], &parameter = call.outputs[o_parameter], &m = call.outputs[o_m], &v = call.outputs[o_v];
  const int64_t size = parameter.size();
  for (const Tensor& t : {gradient, parameter, m, v}) expect_vector(t, DType::f32, size, "f32 operands of one size");
  const double* a = call.attributes;
  const double step = a[a_step];
  const float step_size = static_cast<float>(a[a_lr] / (1 - std::pow(a[a_beta1], step)));
  const float correction = static_cast<float>(std::sqrt(1 - std::pow(a[a_beta2], step)));
  const float decay = static_cast<float>(1 - a[a_lr] * a[a_weight_decay]), eps = static_cast<float>(a[a_eps]);
  const float beta1 = static_cast<float>(a[a_beta1]), rest1 = static_cast<float>(1 - a[a_beta1]);
  const float beta2 = static_cast<float>(a[a_beta2]), rest2 = static_cast<float>(1 - a[a_beta2]);
  const float scale = static_cast<float>(a[a_gradient_scale]);
  pool.ranges(size, kGrain, [&](int64_t begin, int64_t end, int) {
    const float* __restrict g = f32_at(gradient, 0);
    float *__restrict p = f32_at(parameter, 0), *__restrict first = f32_at(m, 0), *__restrict second = f32_at(v, 0);
    for (int64_t i = begin; i < end; i++) {
      const float d = scale * g[i];
      first[i] = beta1 * first[i] + rest1 * d;
      second[i] = beta2 * second[i] + rest2 * d * d;
      p[i] = decay * p[i] - step_size * first[i] / (std::sqrt(second[i]) / correction + eps);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA
