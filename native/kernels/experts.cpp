// Mixtures of experts: which experts a token goes to, and its rows on the way to them and back.
#include <cmath>
#include <limits>

#include "blocks.h"
#include "simd.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// Checks places [T, k], each a row of `limit`, and gives them.
const int32_t* expect_places(const Tensor& places, int64_t tokens, int64_t limit) {
  expect(places.rank == 2 && places.shape[0] == tokens, "places [T, k]");
  return expect_rows(places, places.size(), limit, "places");
}

}  // namespace

void route(const Call& call, Pool& pool) {
  using namespace route_op;
  const Tensor &logits = call.inputs[i_logits], &probabilities = call.outputs[o_probabilities];
  const Tensor &experts = call.outputs[o_experts], &weights = call.outputs[o_weights];
  expect(logits.dtype == DType::f32 && logits.rank == 2, "logits [T, E] in f32");
  const int64_t tokens = logits.shape[0], all = logits.shape[1], k = experts.columns();
  expect(probabilities.dtype == DType::f32 && same_shape(probabilities, logits), "probabilities of the logits' shape");
  expect(experts.dtype == DType::i32 && experts.rank == 2 && experts.shape[0] == tokens && k <= all, "experts [T, k] in i32, k ≤ E");
  expect(weights.dtype == DType::f32 && same_shape(weights, experts), "weights of the experts' shape");
  const bool normalize = Attributes(call.attributes).normalize;
  pool.ranges(tokens, row_grain(all), [&](int64_t begin, int64_t end, int thread) {
    auto* taken = static_cast<bool*>(pool.scratch(thread, Slot::rows, all * sizeof(bool)));
    for (int64_t t = begin; t < end; t++) {
      const float* x = f32_at(logits, t * all);
      float* p = f32_at(probabilities, t * all);
      auto* chosen = static_cast<int32_t*>(experts.data) + t * k;
      for (int64_t e = 0; e < all; e++) taken[e] = false;
      for (int64_t j = 0; j < k; j++) {
        int64_t best = -1;
        for (int64_t e = 0; e < all; e++)
          if (!taken[e] && (best < 0 || x[e] > x[best])) best = e;
        taken[best] = true;
        chosen[j] = static_cast<int32_t>(best);
      }
      float shift = -std::numeric_limits<float>::infinity(), sum = 0, share = 0;
      for (int64_t e = 0; e < all; e++) shift = x[e] > shift ? x[e] : shift;
      for (int64_t e = 0; e < all; e++) sum += p[e] = exp_f32(x[e] - shift);
      for (int64_t e = 0; e < all; e++) p[e] /= sum;
      for (int64_t j = 0; j < k; j++) share += p[chosen[j]];
      for (int64_t j = 0; j < k; j++) *f32_at(weights, t * k + j) = normalize ? p[chosen[j]] / share : p[chosen[j]];
    }
  });
}

void route_backward(const Call& call, Pool& pool) {
  using namespace route_backward_op;
  const Tensor &probabilities = call.inputs[i_probabilities], &experts = call.inputs[i_experts];
  const Tensor &dweights = call.inputs[i_dweights], &counts = call.inputs[i_counts], &dlogits = call.outputs[o_dlogits];
  expect(probabilities.dtype == DType::f32 && probabilities.rank == 2, "probabilities [T, E] in f32");
  const int64_t tokens = probabilities.shape[0], all = probabilities.shape[1], k = experts.columns();
  expect(experts.rank == 2 && experts.shape[0] == tokens, "experts [T, k]");
  const int32_t* choices = expect_rows(experts, tokens * k, all, "experts");
  expect(dweights.dtype == DType::f32 && same_shape(dweights, experts), "dweights of the experts' shape in f32");
  expect(dlogits.dtype == DType::f32 && same_shape(dlogits, probabilities), "dlogits of the probabilities' shape in f32");
  if (counts) expect_vector(counts, DType::f32, all, "one f32 count per expert");
  const Attributes attributes(call.attributes);
  const auto balance = static_cast<float>(attributes.balance);
  pool.ranges(tokens, row_grain(all), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const float *p = f32_at(probabilities, t * all), *dw = f32_at(dweights, t * k);
      const int32_t* chosen = choices + t * k;
      float* d = f32_at(dlogits, t * all);
      for (int64_t e = 0; e < all; e++) d[e] = counts ? balance * *f32_at(counts, e) : 0.f;
      float share = 1, mean = 0;
      if (attributes.normalize) {
        share = 0;
        for (int64_t j = 0; j < k; j++) share += p[chosen[j]];
        for (int64_t j = 0; j < k; j++) mean += p[chosen[j]] / share * dw[j];
      }
      for (int64_t j = 0; j < k; j++) d[chosen[j]] += (dw[j] - mean) / share;
      float inner = 0;
      for (int64_t e = 0; e < all; e++) inner += p[e] * d[e];
      for (int64_t e = 0; e < all; e++) d[e] = p[e] * (d[e] - inner);
    }
  });
}

void group_rows(const Call& call, Pool& pool) {
  using namespace group_rows_op;
  const Tensor &experts = call.inputs[i_experts], &tokens = call.outputs[o_tokens], &places = call.outputs[o_places];
  const Tensor &groups = call.outputs[o_groups], &counts = call.outputs[o_counts];
  expect(experts.rank == 2 && groups.rank == 1 && groups.shape[0] > 0, "experts [T, k] and groups [E + 1]");
  const int64_t n = experts.size(), k = experts.shape[1], all = groups.shape[0] - 1;
  const int32_t* choices = expect_rows(experts, n, all, "experts");
  expect_vector(tokens, DType::i32, n, "one i32 token per choice");
  expect_vector(places, DType::i32, n, "one i32 place per choice");
  expect_vector(groups, DType::i32, all + 1, "groups of i32");
  if (counts) expect_vector(counts, DType::f32, all, "one f32 count per expert");
  auto* next = static_cast<int32_t*>(pool.scratch(0, Slot::rows, (all + 1) * sizeof(int32_t)));
  auto* bounds = static_cast<int32_t*>(groups.data);
  for (int64_t e = 0; e <= all; e++) bounds[e] = 0;
  for (int64_t i = 0; i < n; i++) bounds[choices[i] + 1]++;
  if (counts)
    for (int64_t e = 0; e < all; e++) *f32_at(counts, e) += static_cast<float>(bounds[e + 1]);
  for (int64_t e = 0; e < all; e++) bounds[e + 1] += bounds[e];
  for (int64_t e = 0; e <= all; e++) next[e] = bounds[e];
  for (int64_t i = 0; i < n; i++) {
    const int32_t place = next[choices[i]]++;
    static_cast<int32_t*>(places.data)[i] = place;
    static_cast<int32_t*>(tokens.data)[place] = static_cast<int32_t>(i / k);
  }
}

void combine_rows(const Call& call, Pool& pool) {
  using namespace combine_rows_op;
  const Tensor &x = call.inputs[i_x], &places = call.inputs[i_places], &weights = call.inputs[i_weights];
  const Tensor &residual = call.inputs[i_residual], &out = call.outputs[o_out];
  expect_floats(x, out);
  expect(x.rank == 2 && out.rank == 2 && x.shape[1] == out.shape[1], "x and out of one width");
  const int64_t tokens = out.shape[0], columns = out.shape[1], k = places.columns();
  const int32_t* rows = expect_places(places, tokens, x.shape[0]);
  if (weights) expect_vector(weights, DType::f32, tokens * k, "one f32 weight per place");
  expect(!residual || (is_float(residual) && same_shape(residual, out)), "a residual of out's shape");
  pool.ranges(tokens, row_grain(columns * (k + 1)), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock], sums[kBlock];
    for (int64_t t = begin; t < end; t++) {
      for (int64_t at = 0; at < columns; at += kBlock) {
        const int64_t n = columns - at < kBlock ? columns - at : kBlock;
        for (int64_t c = 0; c < n; c++) sums[c] = 0;
        for (int64_t j = 0; j < k; j++) {
          const float weight = weights ? *f32_at(weights, t * k + j) : 1.f;
          const float* from = load(x, rows[t * k + j] * columns + at, n, buffer);
#pragma omp simd
          for (int64_t c = 0; c < n; c++) sums[c] += weight * from[c];
        }
        const float* rest = residual ? load(residual, t * columns + at, n, buffer) : nullptr;
        float* to = target(out, t * columns + at, sums);
        if (rest)
          for (int64_t c = 0; c < n; c++) to[c] = sums[c] + rest[c];
        else if (to != sums)
          for (int64_t c = 0; c < n; c++) to[c] = sums[c];
        store(out, t * columns + at, n, to);
      }
    }
  });
}

void combine_rows_backward(const Call& call, Pool& pool) {
  using namespace combine_rows_backward_op;
  const Tensor &x = call.inputs[i_x], &places = call.inputs[i_places], &weights = call.inputs[i_weights], &dout = call.inputs[i_dout];
  const Tensor &dx = call.outputs[o_dx], &dweights = call.outputs[o_dweights];
  expect_floats(x, dout, dx);
  expect(x.rank == 2 && dout.rank == 2 && x.shape[1] == dout.shape[1] && same_shape(x, dx), "x, dout and dx of one width");
  const int64_t tokens = dout.shape[0], columns = dout.shape[1], k = places.columns();
  const int32_t* rows = expect_places(places, tokens, x.shape[0]);
  expect(x.shape[0] == tokens * k, "one row of x per place");
  expect_vector(weights, DType::f32, tokens * k, "one f32 weight per place");
  expect_vector(dweights, DType::f32, tokens * k, "one f32 gradient per weight");
  pool.ranges(tokens, row_grain(columns * (k + 1)), [&](int64_t begin, int64_t end, int) {
    alignas(64) float buffer[kBlock], gradient[kBlock], result[kBlock];
    for (int64_t i = begin * k; i < end * k; i++) {
      const float weight = *f32_at(weights, i);
      float inner = 0;
      for (int64_t at = 0; at < columns; at += kBlock) {
        const int64_t n = columns - at < kBlock ? columns - at : kBlock;
        const float *y = load(x, rows[i] * columns + at, n, buffer), *g = load(dout, i / k * columns + at, n, gradient);
        float* to = target(dx, rows[i] * columns + at, result);
#pragma omp simd reduction(+ : inner)
        for (int64_t c = 0; c < n; c++) inner += y[c] * g[c];
#pragma omp simd
        for (int64_t c = 0; c < n; c++) to[c] = weight * g[c];
        store(dx, rows[i] * columns + at, n, to);
      }
      *f32_at(dweights, i) = inner;
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA
