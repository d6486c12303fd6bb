// Plain loops until gemm.cpp and attention.cpp define these ops; their definitions override these weak ones.
#include <cmath>
#include <vector>

#include "blocks.h"
#include "simd.h"

namespace lowrank::LOWRANK_ISA {

namespace {
float at(const Tensor& t, int64_t i) {
  float buffer;
  return *load(t, i, 1, &buffer);
}
void put(const Tensor& t, int64_t i, float value) {
  if (t.dtype == DType::f32) *f32_at(t, i) = value;
  else store(t, i, 1, &value);
}

// The keys that query i of the segment sees, and the sum of its probabilities' numerators.
struct Geometry {
  const int32_t* segments;
  int64_t count, width, heads, groups;
  double scale;
  int64_t window;
};
Geometry geometry(const Tensor& q, const Tensor& k, const Tensor& segments, const double* a) {
  const auto width = static_cast<int64_t>(a[0]);
  return {static_cast<const int32_t*>(segments.data), segments.rows(), width, q.columns() / width, k.columns() / width, a[1],
          static_cast<int64_t>(a[2])};
}
template <class Body>
void each_query(Pool& pool, const Geometry& g, const Body& body) {
  for (int64_t s = 0; s < g.count; s++) {
    const int32_t* seg = g.segments + 4 * s;
    for (int64_t i = seg[0]; i < seg[1]; i++)
      for (int64_t h = 0; h < g.heads; h++) {
        const int64_t p = seg[3] - seg[2] - (seg[1] - seg[0]) + (i - seg[0]);
        const int64_t first = g.window && p - g.window + 1 > 0 ? p - g.window + 1 : 0;
        body(i, h, h * g.groups / g.heads, seg[2] + first, seg[2] + p + 1);
      }
  }
}
}  // namespace

__attribute__((weak)) void matmul(const Call& call, Pool& pool) {
  using namespace matmul_op;
  const Tensor &a = call.inputs[i_a], &b = call.inputs[i_b], &out = call.outputs[o_out];
  const bool ta = call.attributes[a_transpose_a] != 0, tb = call.attributes[a_transpose_b] != 0, acc = call.attributes[a_accumulate] != 0;
  const float alpha = static_cast<float>(call.attributes[a_alpha]);
  const int64_t m = out.rows(), n = out.columns(), k = ta ? a.rows() : a.columns();
  const bool narrow = a.dtype == DType::bf16 || b.dtype == DType::bf16;
  std::vector<float> fa(a.size()), fb(b.size());
  for (int64_t i = 0; i < a.size(); i++) fa[i] = narrow ? from_bf16(to_bf16(at(a, i))) : at(a, i);
  for (int64_t i = 0; i < k; i++)
    for (int64_t j = 0; j < n; j++) fb[i * n + j] = narrow ? from_bf16(to_bf16(at(b, tb ? j * k + i : i * n + j))) : at(b, tb ? j * k + i : i * n + j);
  pool.ranges(m, row_grain(n * k), [&](int64_t begin, int64_t end, int thread) {
    auto* row = static_cast<float*>(pool.scratch(thread, 0, n * sizeof(float)));
    for (int64_t i = begin; i < end; i++) {
      for (int64_t j = 0; j < n; j++) row[j] = 0;
      for (int64_t l = 0; l < k; l++) {
        const float x = fa[ta ? l * m + i : i * k + l];
        const float* y = fb.data() + l * n;
        for (int64_t j = 0; j < n; j++) row[j] += x * y[j];
      }
      for (int64_t j = 0; j < n; j++) put(out, i * n + j, alpha * row[j] + (acc ? at(out, i * n + j) : 0.f));
    }
  });
}

__attribute__((weak)) void attention(const Call& call, Pool& pool) {
  using namespace attention_op;
  const Tensor &q = call.inputs[i_q], &k = call.inputs[i_k], &v = call.inputs[i_v], &out = call.outputs[o_out], &lse = call.outputs[o_lse];
  const Geometry g = geometry(q, k, call.inputs[i_segments], call.attributes);
  const int64_t D = g.width;
  each_query(pool, g, [&](int64_t i, int64_t h, int64_t group, int64_t first, int64_t last) {
    std::vector<double> s(last - first), o(D);
    double best = -1e300, sum = 0;
    for (int64_t j = first; j < last; j++) {
      double dot = 0;
      for (int64_t d = 0; d < D; d++) dot += at(q, (i * g.heads + h) * D + d) * at(k, (j * g.groups + group) * D + d);
      s[j - first] = dot * g.scale;
      best = s[j - first] > best ? s[j - first] : best;
    }
    for (double& x : s) sum += x = std::exp(x - best);
    for (int64_t j = first; j < last; j++)
      for (int64_t d = 0; d < D; d++) o[d] += s[j - first] / sum * at(v, (j * g.groups + group) * D + d);
    for (int64_t d = 0; d < D; d++) put(out, (i * g.heads + h) * D + d, static_cast<float>(o[d]));
    *f32_at(lse, i * g.heads + h) = static_cast<float>(best + std::log(sum));
  });
}

__attribute__((weak)) void attention_backward(const Call& call, Pool& pool) {
  using namespace attention_backward_op;
  const Tensor *in = call.inputs, *o = call.outputs;
  const Geometry g = geometry(in[i_q], in[i_k], in[i_segments], call.attributes);
  const int64_t D = g.width;
  std::vector<double> dq(in[i_q].size()), dk(in[i_k].size()), dv(in[i_v].size());
  each_query(pool, g, [&](int64_t i, int64_t h, int64_t group, int64_t first, int64_t last) {
    const int64_t row = (i * g.heads + h) * D;
    double delta = 0;
    for (int64_t d = 0; d < D; d++) delta += at(in[i_dout], row + d) * at(in[i_out], row + d);
    for (int64_t j = first; j < last; j++) {
      const int64_t key = (j * g.groups + group) * D;
      double dot = 0, dp = 0;
      for (int64_t d = 0; d < D; d++) {
        dot += at(in[i_q], row + d) * at(in[i_k], key + d);
        dp += at(in[i_dout], row + d) * at(in[i_v], key + d);
      }
      const double p = std::exp(dot * g.scale - *f32_at(in[i_lse], i * g.heads + h)), ds = g.scale * p * (dp - delta);
      for (int64_t d = 0; d < D; d++) {
        dv[key + d] += p * at(in[i_dout], row + d);
        dq[row + d] += ds * at(in[i_k], key + d);
        dk[key + d] += ds * at(in[i_q], row + d);
      }
    }
  });
  for (size_t i = 0; i < dq.size(); i++) put(o[o_dq], i, static_cast<float>(dq[i]));
  for (size_t i = 0; i < dk.size(); i++) put(o[o_dk], i, static_cast<float>(dk[i]));
  for (size_t i = 0; i < dv.size(); i++) put(o[o_dv], i, static_cast<float>(dv[i]));
}

}  // namespace lowrank::LOWRANK_ISA
