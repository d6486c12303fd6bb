// Attention. The scores of a tile's rows against all keys that they see stand in a buffer [rows, keys], so that the softmax needs no
// rescaling; memory is linear in the length.
#include "attention.h"
#include "simd.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// The rows of a task, which are whole tiles.
constexpr int64_t kTaskRows = 192;

// The scores of one row against the keys [0, n), of which it sees [lo, hi). They lie span by span, each span's kSpan scores `stride` after
// the ones before.
struct Scores {
  float* first;
  int64_t stride, lo, hi, n;

  float* span(int64_t key) const { return first + key / kSpan * stride; }
};

#if defined(__AVX512F__)
float max_of(const Scores& s) {
  __m512 max[2];
  max[0] = max[1] = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (int64_t key = s.lo / kSpan * kSpan; key < s.hi; key += kSpan)
    for (int64_t j = 0; j < kSpan; j += 32)
      for (int i = 0; i < 2; i++) {
        const __mmask16 seen = between(s.lo - key, s.hi - key, j + 16 * i);
        max[i] = _mm512_mask_max_ps(max[i], seen, max[i], _mm512_loadu_ps(s.span(key) + j + 16 * i));
      }
  return _mm512_reduce_max_ps(_mm512_max_ps(max[0], max[1]));
}
#else
float max_of(const Scores& s) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t key = s.lo / kSpan * kSpan; key < s.hi; key += kSpan) {
    const float* x = s.span(key);
    const int64_t end = std::min(s.hi - key, kSpan);
#pragma omp simd reduction(max : max)
    for (int64_t j = std::max<int64_t>(s.lo - key, 0); j < end; j++) max = x[j] > max ? x[j] : max;
  }
  return max;
}
#endif

// Gives the scores that a row sees their soft cap; the factor of scores is still to come.
void cap(const Geometry& g, const Scores& s) {
  const float in = g.scale / g.softcap, out = g.softcap / g.scale;
  for (int64_t key = s.lo / kSpan * kSpan; key < s.hi; key += kSpan) {
    float* x = s.span(key);
    const int64_t end = std::min(s.hi - key, kSpan);
#pragma omp simd
    for (int64_t j = std::max<int64_t>(s.lo - key, 0); j < end; j++) x[j] = out * tanh_f32(x[j] * in);
  }
}

// Computes the weights exp(scale · score − shift) of the keys that a row sees, and 0 for the rest of its n keys, into rows of `units` a
// span, and returns their sum. Where weights are f32 they may take the place of the scores.
float weights_of(const Geometry& g, const Scores& s, float shift, uint32_t* row, int64_t units) {
#if defined(__AVX512F__)
  __m512 sum = _mm512_setzero_ps();
  const __m512 scale = _mm512_set1_ps(g.scale * kLog2E), shifts = _mm512_set1_ps(shift * kLog2E);
  for (int64_t key = 0; key < s.n; key += kSpan, row += units) {
    const float* scores = s.span(key);
    each_lanes(s.lo - key, s.hi - key, std::min(s.n - key, kSpan), [&](int64_t j, __mmask16 seen) {
      const __m512 x = _mm512_fmsub_ps(_mm512_maskz_loadu_ps(seen, scores + j), scale, shifts);
      const __m512 p = _mm512_maskz_mov_ps(seen, exp2_lanes(x));
      sum = _mm512_add_ps(sum, p);
      if (g.form >= Form::pairs) _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + j / 2), round_lanes(p));
      else _mm512_storeu_ps(row + j, as_factor(g.form, p));
    });
  }
  return _mm512_reduce_add_ps(sum);
#else
  float sum = 0;
  for (int64_t key = 0; key < s.n; key += kSpan, row += units) {
    const bool pairs = kHasPairs && g.form == Form::pairs;
    float numbers[kSpan];
    float* p = pairs ? numbers : reinterpret_cast<float*>(row);
    const float* scores = s.span(key);
    const int64_t n = std::min(s.n - key, kSpan);
    const int64_t lo = std::clamp<int64_t>(s.lo - key, 0, n), hi = std::clamp<int64_t>(s.hi - key, lo, n);
#pragma omp simd reduction(+ : sum)
    for (int64_t j = lo; j < hi; j++) {
      p[j] = exp_f32(scores[j] * g.scale - shift);
      sum += p[j];
    }
    std::fill(p, p + lo, 0.f);
    std::fill(p + hi, p + round_up(n, 2 * kTogether), 0.f);
    if (pairs) round_row(p, n, row, units);
    else for (int64_t j = lo; j < hi; j++) p[j] = as_factor(g.form, p[j]);
  }
  return sum;
#endif
}

// out [Rows][padded] = weights · values over the keys [begin, end), span by span, each row times its factor.
template <int Rows, bool Pairs>
void weigh(const Geometry& g, const Task& t, const uint32_t* weights, const Packed& values, int64_t begin, int64_t end,
           const float* factors, float* out) {
  for (int64_t d = 0; d < g.width; d += kColumns) {
    const uint32_t* span = weights;
#if defined(__AMX_BF16__)
    if constexpr (Rows == kTileRows) {
      clear_sums<2>();
      for (int64_t key = begin; key < end; key += kSpan, span += Rows * kRowUnits<true>) {
        const int64_t chunks = steps_of(g.form, std::min(kSpan, end - key)) / kChunk;
        add_chunks<2>(span, values.columns(t, key, d), chunks, {kRowUnits<true>, kChunk, kColumns});
      }
      store_sums<2>(out + d, g.padded);
      for (int r = 0; r < Rows; r++)
        for (int i = 0; i < kColumns; i++) out[r * g.padded + d + i] *= factors[r];
      continue;
    }
#endif
    Lanes sums[Rows][2];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) sums[r][0] = sums[r][1] = Lanes{};
    for (int64_t key = begin; key < end; key += kSpan, span += Rows * kRowUnits<Pairs>) {
      const int64_t steps = steps_of(g.form, std::min(kSpan, end - key));
      multiply<Pairs, Rows, 2, kRowStride<Pairs>, kStepStride<Pairs, Rows>>(span, values.columns(t, key, d), steps, sums);
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++)
      for (int v = 0; v < 2; v++) {
        put_lanes(out + r * g.padded + d + v * kLanes, sums[r][v] * factors[r]);
      }
  }
}

// Computes the rows of one task, a tile at a time.
template <int Rows>
void forward(const Geometry& g, const Task& t, const Call& call, const Packed& keys, const Packed& values, Pool& pool, int thread) {
  using namespace attention_op;
  const int64_t size = Rows * round_up(t.segment->keys, kSpan);
  const auto carve = [&](char* base) {
    Carver c{base};
    struct {
      float *rows, *scores, *sums;
      uint32_t *queries, *weights;
      char* end;
    } s{c.take<float>(Rows * g.width), c.take<float>(size), c.take<float>(Rows * g.padded), c.take<uint32_t>(Rows * g.steps()),
        c.take<uint32_t>(g.form >= Form::pairs ? size / 2 : 0), nullptr};
    s.end = c.next;
    return s;
  };
  const auto s = carve(static_cast<char*>(pool.scratch(thread, Slot::own, carve(nullptr).end - static_cast<char*>(nullptr))));
  // Scores and weights lie span by span, in rows of kSpan keys.
  uint32_t* weights = g.form >= Form::pairs ? s.weights : reinterpret_cast<uint32_t*>(s.scores);
  const bool pairs = kHasPairs && g.form >= Form::pairs;
  const int64_t row_units = g.span_steps(), per_chunk = Rows == kTileRows ? 2 * kChunk : 1;
  [[maybe_unused]] const TileRegisters registers;
  for (int64_t row = t.begin; row < t.end; row += Rows) {
    const int64_t n = std::min<int64_t>(Rows, t.end - row);
    const int64_t begin = g.first_key(t, row) / kSpan * kSpan, end = g.last_key(t, row + n - 1);
    const Tensor q = gather(g, t, call.inputs[i_q], row, n, s.rows);
    pack_left_panel<Rows>({&q, true, g.width}, n, g.width, g.form, s.queries);
    for (int64_t key = begin; key < end; key += kColumns) {
      float* scores = s.scores + (key - begin) / kSpan * Rows * kSpan + key % kSpan;
      tile<false, Rows, 2>(g.form, s.queries, keys.keys(t, key), g.steps(), scores, kSpan);
    }
    float inverse[Rows] = {};
    for (int64_t r = 0; r < n; r++) {
      const Scores scores{.first = s.scores + r * kSpan,
                          .stride = Rows * kSpan,
                          .lo = g.first_key(t, row + r) - begin,
                          .hi = g.last_key(t, row + r) - begin,
                          .n = round_up(end - begin, per_chunk)};
      uint32_t* mine = weights + r * (pairs && kArePanels ? 2 : row_units);
      if (g.softcap > 0) cap(g, scores);
      const int64_t place = g.query_row(t, row + r);
      const float most = g.scale * max_of(scores), sink = g.sinks ? g.sinks[place % g.heads] : most;
      const float shift = most < sink ? sink : most;
      float sum = weights_of(g, scores, shift, mine, Rows * row_units);
      if (g.sinks) sum += std::exp(sink - shift);
      *f32_at(call.outputs[o_lse], place) = shift + std::log(sum);
      inverse[r] = 1.f / sum;
    }
    if (pairs) weigh<Rows, kHasPairs>(g, t, weights, values, begin, end, inverse, s.sums);
    else weigh<Rows, false>(g, t, weights, values, begin, end, inverse, s.sums);
    store_rows(g, t, call.outputs[o_out], row, n, s.sums);
  }
}

}  // namespace

void attention(const Call& call, Pool& pool) {
  using namespace attention_op;
  const Tensor &q = call.inputs[i_q], &k = call.inputs[i_k], &v = call.inputs[i_v], &out = call.outputs[o_out];
  const Geometry g(q, k, v, call.inputs[i_segments], call.inputs[i_sinks], Attributes(call.attributes));
  expect_floats(out);
  expect(same_shape(q, out), "out of q's shape");
  expect_vector(call.outputs[o_lse], DType::f32, q.shape[0] * g.heads, "lse [Tq, H] f32");
  Carver c{static_cast<char*>(pool.scratch(0, Slot::shared, (Packed::size(g, true) + Packed::size(g, false)) * 4 + 128))};
  const Packed keys{g, c.take<uint32_t>(Packed::size(g, true)), true}, values{g, c.take<uint32_t>(Packed::size(g, false)), false};
  each_span(g, pool, [&](const Segment& s, int64_t key, int64_t group) {
    keys.pack(k, s, key, group);
    values.pack(v, s, key, group);
  });
  std::vector<Task> tasks;
  for (const Segment& s : g.segments)
    for (int64_t group = 0; group < g.groups; group++)
      // The last rows see the most keys and go first, so that the threads end together.
      for (int64_t end = g.rows(s); end > 0;) {
        const int64_t begin = (end - 1) / kTaskRows * kTaskRows;
        tasks.push_back({&s, group, begin, end, nullptr, nullptr});
        end = begin;
      }
  with_rows(g.form, [&](auto rows) {
    constexpr int Rows = decltype(rows)::value;
    pool.each(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) {
      forward<Rows>(g, tasks[i], call, keys, values, pool, thread);
    });
  });
}

}  // namespace lowrank::LOWRANK_ISA
