// The gradient of attention. The weights are computed again from lse, as in algorithm 4 of Dao et al. 2022 (§3.1), while a block of kSpan
// rows meets one span of keys after the other.
#include <array>

#include "attention.h"
#include "simd.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// What a thread needs for a block of kSpan rows, in tiles of Rows.
template <int Rows>
struct Block {
  float *q, *dout, *out;           // the rows as they are stored
  uint32_t *q_tiles, *dout_tiles;  // panels of Rows rows over the width of a head
  uint32_t *q_depth, *dout_depth;  // panels of kColumns numbers of that width over the rows; left panels for tile registers
  float *scores, *dp;              // the products q·k and dout·v of a tile, [Rows][kSpan keys]
  uint32_t *p, *ds;                // the weights of all rows and the gradients of the scores, by steps
  uint32_t* ds_rows;               // the gradients of a tile's scores, by rows
  float* dq;                       // [kSpan][padded]
  float lse[kSpan] = {}, delta[kSpan] = {};

  char* carve(const Geometry& g, char* base) {
    Carver c{base};
    for (float** rows : {&q, &dout, &out}) *rows = c.take<float>(kSpan * g.width);
    for (uint32_t** tiles : {&q_tiles, &dout_tiles}) *tiles = c.take<uint32_t>(kSpan * g.steps());
    for (uint32_t** depth : {&q_depth, &dout_depth}) *depth = c.take<uint32_t>(g.padded * g.span_steps());
    for (float** tile : {&scores, &dp}) *tile = c.take<float>(Rows * kSpan);
    for (uint32_t** steps : {&p, &ds}) *steps = c.take<uint32_t>(g.span_steps() * kSpan);
    ds_rows = c.take<uint32_t>(Rows * g.span_steps());
    dq = c.take<float>(kSpan * g.padded);
    return c.next;
  }
};

// Gathers and packs the n rows of a block from `row` on, and sets their lse, their delta = Σ dout·out and zeros for dq.
template <int Rows>
void pack_block(const Geometry& g, const Task& t, const Call& call, int64_t row, int64_t n, Block<Rows>& b) {
  using namespace attention_backward_op;
  const Tensor q = gather(g, t, call.inputs[i_q], row, n, b.q), dout = gather(g, t, call.inputs[i_dout], row, n, b.dout);
  const Tensor out = gather(g, t, call.inputs[i_out], row, n, b.out);
  const auto pack = [&](const Tensor& x, uint32_t* tiles, uint32_t* depth) {
    for (int64_t r = 0; r < n; r += Rows)
      pack_left_panel<Rows>({&x, true, g.width, r}, std::min<int64_t>(Rows, n - r), g.width, g.form, tiles + r * g.steps());
    for (int64_t d = 0; d < g.width; d += kColumns) {
      const Factor f{&x, false, g.width, d};
      const int64_t valid = std::min<int64_t>(kColumns, g.width - d);
      if constexpr (Rows == kTileRows) pack_left_panel<Rows>(f, valid, n, g.form, depth + d * g.span_steps());
      else pack_panel(f, valid, kColumns, n, g.form, depth + d * g.span_steps());
    }
  };
  pack(q, b.q_tiles, b.q_depth);
  pack(dout, b.dout_tiles, b.dout_depth);
  for (int64_t r = 0; r < n; r++) {
    b.lse[r] = *f32_at(call.inputs[i_lse], g.query_row(t, row + r));
    float sum = 0, x[kBlock], y[kBlock];
    for (int64_t d = 0; d < g.width; d += kBlock) {
      const int64_t count = std::min(kBlock, g.width - d);
      const float *a = load(dout, r * g.width + d, count, x), *c = load(out, r * g.width + d, count, y);
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < count; i++) sum += a[i] * c[i];
    }
    b.delta[r] = sum;
  }
  std::fill_n(b.dq, kSpan * g.padded, 0.f);
}

#if !defined(__AVX512F__)
// Rounds four rows of numbers along the keys into two steps of pairs that lie together.
[[maybe_unused]] inline void round_fours(const float (&rows)[4][kSpan], int64_t count, uint32_t* units) {
  auto* halves = reinterpret_cast<uint16_t*>(units);
  for (int64_t j = 0; j < count; j++) {
    halves[4 * j] = to_bf16(rows[0][j]);
    halves[4 * j + 1] = to_bf16(rows[1][j]);
    halves[4 * j + 2] = to_bf16(rows[2][j]);
    halves[4 * j + 3] = to_bf16(rows[3][j]);
  }
}
#endif

// Computes the weights p = exp(scale · score − lse) and the gradients ds = scale · p · (dout·v − delta) of a tile, which has the rows [r, r
// + Rows) of the block: for row i those of the keys [lo[i], hi[i]) of a span, and 0 for the others of its first `count`.
template <int Rows>
void tile_gradients(const Geometry& g, int64_t r, const int64_t* lo, const int64_t* hi, int64_t count, Block<Rows>& b) {
  uint32_t *p = b.p + kSpan * steps_of(g.form, r), *ds = b.ds + kSpan * steps_of(g.form, r);
#if defined(__AVX512F__)
  struct Pair {
    __m512 p, ds;
  };
  const auto pair = [&](int i, int64_t j, __mmask16 seen) {
    const __m512 scale = _mm512_set1_ps(g.scale * kLog2E), shift = _mm512_set1_ps(b.lse[r + i] * kLog2E);
    const __m512 exponent = _mm512_fmsub_ps(_mm512_maskz_loadu_ps(seen, b.scores + i * kSpan + j), scale, shift);
    const __m512 weight = _mm512_maskz_mov_ps(seen, exp2_lanes(exponent));
    // The difference is taken first, because it is 0 where a row sees one key.
    const __m512 slope = _mm512_sub_ps(_mm512_maskz_loadu_ps(seen, b.dp + i * kSpan + j), _mm512_set1_ps(b.delta[r + i]));
    return Pair{weight, _mm512_mul_ps(_mm512_mul_ps(weight, _mm512_set1_ps(g.scale)), slope)};
  };
#if defined(__AVX512BF16__)
  if (g.form >= Form::pairs) {
    alignas(64) static constexpr auto order = [] {
      std::array<uint16_t, 32> o{};
      for (int i = 0; i < 16; i++) o[2 * i] = static_cast<uint16_t>(i), o[2 * i + 1] = static_cast<uint16_t>(16 + i);
      return o;
    }();
    const __m512i both = _mm512_load_si512(order.data());
    auto* rows = reinterpret_cast<__m256i*>(b.ds_rows);
    for (int i = 0; i < Rows; i += 2, p += kSpan, ds += kSpan, rows += 2 * kSpan / 16)
      for (int64_t j = 0; j < count; j += 16) {
        const Pair even = pair(i, j, between(lo[i], hi[i], j)), odd = pair(i + 1, j, between(lo[i + 1], hi[i + 1], j));
        const auto weights = (__m512i)_mm512_cvtne2ps_pbh(odd.p, even.p), slopes = (__m512i)_mm512_cvtne2ps_pbh(odd.ds, even.ds);
        _mm512_storeu_si512(p + j, _mm512_permutexvar_epi16(both, weights));
        _mm512_storeu_si512(ds + j, _mm512_permutexvar_epi16(both, slopes));
        _mm256_storeu_si256(rows + j / 16, _mm512_castsi512_si256(slopes));
        _mm256_storeu_si256(rows + kSpan / 16 + j / 16, _mm512_extracti64x4_epi64(slopes, 1));
      }
    return;
  }
#endif
  for (int i = 0; i < Rows; i++)
    each_lanes(lo[i], hi[i], count, [&](int64_t j, __mmask16 seen) {
      const Pair both = pair(i, j, seen);
      _mm512_storeu_ps(p + i * kSpan + j, as_factor(g.form, both.p));
      _mm512_storeu_ps(ds + i * kSpan + j, as_factor(g.form, both.ds));
    });
#else
  const auto row = [&](int i, float* __restrict weight, float* __restrict slope) {
    const int64_t end = round_up(count, 2 * kTogether);
    const float *scores = b.scores + i * kSpan, *dp = b.dp + i * kSpan, lse = b.lse[r + i], delta = b.delta[r + i];
    std::fill_n(weight, end, 0.f);
    std::fill_n(slope, end, 0.f);
#pragma omp simd
    for (int64_t j = lo[i]; j < hi[i]; j++) {
      const float e = exp_f32(scores[j] * g.scale - lse);
      weight[j] = as_factor(g.form, e);
      slope[j] = as_factor(g.form, e * (dp[j] - delta) * g.scale);
    }
  };
  if constexpr (kTogether == 2) {
    if (g.form == Form::pairs) {
      for (int i = 0; i < Rows; i += 4, p += 2 * kSpan, ds += 2 * kSpan) {
        float weights[4][kSpan], slopes[4][kSpan];
        for (int j = 0; j < 4; j++) {
          row(i + j, weights[j], slopes[j]);
          round_row(slopes[j], count, b.ds_rows + (i + j) * 2, Rows * kRowUnits<true>);
        }
        round_fours(weights, count, p);
        round_fours(slopes, count, ds);
      }
      return;
    }
  }
  for (int i = 0; i < Rows; i++) row(i, reinterpret_cast<float*>(p + i * kSpan), reinterpret_cast<float*>(ds + i * kSpan));
#endif
}

// Gives a tile's scores their soft cap, and dout·v − delta the slope of it, with delta in it again: for row i at the keys [lo[i],
// hi[i]) of a span.
template <int Rows>
void cap(const Geometry& g, int64_t r, const int64_t* lo, const int64_t* hi, Block<Rows>& b) {
  const float in = g.scale / g.softcap, out = g.softcap / g.scale;
  for (int i = 0; i < Rows; i++) {
    float *scores = b.scores + i * kSpan, *dp = b.dp + i * kSpan;
    const float delta = b.delta[r + i];
#pragma omp simd
    for (int64_t j = lo[i]; j < hi[i]; j++) {
      const float t = tanh_f32(scores[j] * in);
      scores[j] = out * t;
      dp[j] = delta + (dp[j] - delta) * (1.f - t * t);
    }
  }
}

// Computes p and ds of one tile of rows for the span at `key`, and adds their part of dq. Returns whether the tile sees the span at all.
template <int Rows>
bool backward_tile(const Geometry& g, const Task& t, const Packed& keys, const Packed& values, const Packed& depth, int64_t row, int64_t r,
                   int64_t n, int64_t key, int64_t count, Block<Rows>& b) {
  const int64_t end = std::min(count, g.last_key(t, row + r + n - 1) - key);
  const bool pairs = g.form >= Form::pairs;
  if (end <= 0 || g.first_key(t, row + r) >= key + count) {
    for (uint32_t* steps : {b.p, b.ds}) std::fill_n(steps + kSpan * steps_of(g.form, r), kSpan * steps_of(g.form, Rows), 0);
    return false;
  }
  for (int64_t i = 0; i < end; i += kColumns) {
    tile<false, Rows, 2>(g.form, b.q_tiles + r * g.steps(), keys.keys(t, key + i), g.steps(), b.scores + i, kSpan);
    tile<false, Rows, 2>(g.form, b.dout_tiles + r * g.steps(), values.keys(t, key + i), g.steps(), b.dp + i, kSpan);
  }
  int64_t lo[Rows] = {}, hi[Rows] = {};
  for (int64_t i = 0; i < n; i++) {
    lo[i] = std::clamp<int64_t>(g.first_key(t, row + r + i) - key, 0, count);
    hi[i] = std::clamp<int64_t>(g.last_key(t, row + r + i) - key, lo[i], count);
  }
  if (g.softcap > 0) cap(g, r, lo, hi, b);
  tile_gradients(g, r, lo, hi, Rows == kTileRows ? round_up(count, kColumns) : count, b);
  for (int64_t d = 0; d < g.width; d += kColumns) {
    float* dq = b.dq + r * g.padded + d;
    const uint32_t* panel = depth.columns(t, key, d);
    const int64_t steps = steps_of(g.form, end);
    if (pairs) tile<true, Rows, 2, kRowStride<true>, kStepStride<true, Rows>>(g.form, b.ds_rows, panel, steps, dq, g.padded);
    else tile<true, Rows, 2, kRowStride<false>, kStepStride<false, Rows>>(g.form, b.ds + r * kSpan, panel, steps, dq, g.padded);
  }
  return true;
}

// How far apart the rows of a task's dk and dv are. These are [keys][padded], or [padded][keys] where products run in tile registers.
int64_t key_stride(const Geometry& g, const Task& t) { return g.form == Form::tiles ? round_up(t.segment->keys, kSpan) : g.padded; }

// out += squareᵀ · x for the keys [key, key + count), where the square lies by steps and x is packed over the n rows of the block.
template <int Rows>
void add_transposed(const Geometry& g, const Task& t, const uint32_t* square, const uint32_t* depth, int64_t n, int64_t key, int64_t count,
                    float* out) {
  const int64_t stride = key_stride(g, t), steps = steps_of(g.form, n);
  for (int64_t d = 0; d < g.width; d += kColumns, depth += kColumns * g.span_steps()) {
#if defined(__AMX_BF16__)
    if constexpr (Rows == kTileRows) {
      for (int64_t i = 0; i < count; i += kColumns) {
        float* sums = out + d * stride + key + i;
        load_sums<2>(sums, stride);
        add_chunks<2>(depth, square + i, steps / kChunk, {kChunk, Rows * kChunk, kSpan});
        store_sums<2>(sums, stride);
      }
      continue;
    }
#endif
    for (int64_t i = 0; i < count; i += Rows)
      tile<true, Rows, 2, 1, kSpan>(g.form, square + i * key_units(g.form), depth, steps, out + (key + i) * stride + d, stride);
  }
}

// Computes dq of the rows of one task, and the task's part of dk and dv.
template <int Rows>
void backward(const Geometry& g, const Task& t, const Call& call, const Packed& keys, const Packed& values, const Packed& depth, Pool& pool,
              int thread) {
  [[maybe_unused]] const TileRegisters registers;
  Block<Rows> b;
  b.carve(g, static_cast<char*>(pool.scratch(thread, Slot::own, b.carve(g, nullptr) - static_cast<char*>(nullptr))));
  const int64_t size = round_up(t.segment->keys, kSpan) * g.padded;
  std::fill_n(t.dk, size, 0.f);
  std::fill_n(t.dv, size, 0.f);
  for (int64_t row = t.begin; row < t.end; row += kSpan) {
    const int64_t n = std::min(kSpan, t.end - row);
    pack_block(g, t, call, row, n, b);
    const int64_t end = g.last_key(t, row + n - 1);
    for (int64_t key = g.first_key(t, row) / kSpan * kSpan; key < end; key += kSpan) {
      const int64_t count = std::min(kSpan, t.segment->keys - key);
      bool seen = false;
      for (int64_t r = 0; r < n; r += Rows)
        seen |= backward_tile(g, t, keys, values, depth, row, r, std::min<int64_t>(Rows, n - r), key, count, b);
      if (!seen) continue;
      const int64_t visible = std::min(count, end - key);
      add_transposed<Rows>(g, t, b.p, b.dout_depth, n, key, visible, t.dv);
      add_transposed<Rows>(g, t, b.ds, b.q_depth, n, key, visible, t.dk);
    }
    store_rows(g, t, call.outputs[attention_backward_op::o_dq], row, n, b.dq);
  }
}

// Cuts each (segment, group) into so many runs of rows that every thread has several tasks. Since later rows see more keys, the cuts lie at
// √(i/parts), which makes the runs equal work. Each run gets sums of its own, so that the result does not depend on who computes it when.
std::vector<Task> backward_tasks(const Geometry& g, int threads) {
  const auto pairs = static_cast<int64_t>(g.segments.size()) * g.groups;
  std::vector<Task> tasks;
  for (const Segment& s : g.segments) {
    const int64_t rows = g.rows(s), most = std::max<int64_t>(1, rows / (4 * kSpan));
    const int64_t parts = std::clamp<int64_t>(pairs == 0 ? 1 : (4 * threads + pairs - 1) / pairs, 1, most);
    const auto cut = [&](int64_t i) {
      if (i == parts) return rows;
      const double share = std::sqrt(static_cast<double>(i) / static_cast<double>(parts));
      return round_up(static_cast<int64_t>(static_cast<double>(rows) * share), kSpan);
    };
    for (int64_t group = 0; group < g.groups; group++)
      for (int64_t i = parts - 1; i >= 0; i--) tasks.push_back({&s, group, cut(i), cut(i + 1), nullptr, nullptr});
  }
  return tasks;
}

// Stores the sums of a task's keys in out [Tk, G · D].
void store_key_rows(const Geometry& g, const Task& t, const float* sums, const Tensor& out) {
  const auto home = [&](const float* row, int64_t key) {
    copy(matrix(const_cast<float*>(row), 1, g.padded), 0, out, ((t.segment->key + key) * g.groups + t.group) * g.width, g.width);
  };
#if defined(__AMX_BF16__)
  if (g.form == Form::tiles) {
    const int64_t stride = key_stride(g, t);
    std::vector<float> rows(16 * g.padded);
    for (int64_t key = 0; key < t.segment->keys; key += 16) {
      for (int64_t d = 0; d < g.width; d += 16) {
        __m512i units[16];
        for (int i = 0; i < 16; i++) units[i] = _mm512_loadu_si512(sums + (d + i) * stride + key);
        transpose(units);
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(rows.data() + i * g.padded + d, units[i]);
      }
      for (int64_t i = 0; i < std::min<int64_t>(16, t.segment->keys - key); i++) home(rows.data() + i * g.padded, key + i);
    }
    return;
  }
#endif
  for (int64_t key = 0; key < t.segment->keys; key++) home(sums + key * g.padded, key);
}

// Adds up the sums of all tasks of each (segment, group) in their order, and stores dk and dv of all keys.
void store_keys(const Geometry& g, const std::vector<Task>& tasks, const Tensor& dk, const Tensor& dv, Pool& pool) {
  std::vector<size_t> firsts;
  for (size_t i = 0; i < tasks.size(); i++)
    if (i == 0 || tasks[i].segment != tasks[i - 1].segment || tasks[i].group != tasks[i - 1].group) firsts.push_back(i);
  pool.each(static_cast<int64_t>(firsts.size()), [&](int64_t index, int) {
    const size_t first = firsts[index];
    const size_t last = index + 1 < static_cast<int64_t>(firsts.size()) ? firsts[index + 1] : tasks.size();
    const Task& t = tasks[first];
    const int64_t size = round_up(t.segment->keys, kSpan) * g.padded;
    for (size_t i = first + 1; i < last; i++)
      for (int64_t j = 0; j < size; j++) {
        t.dk[j] += tasks[i].dk[j];
        t.dv[j] += tasks[i].dv[j];
      }
    store_key_rows(g, t, t.dk, dk);
    store_key_rows(g, t, t.dv, dv);
  });
}

// dsinks [H] −= Σ over queries of exp(sink − lse) · Σ dout·out.
void sink_gradients(const Geometry& g, const Tensor& out, const Tensor& dout, const Tensor& lse, const Tensor& dsinks, Pool& pool) {
  pool.each(g.heads, [&](int64_t head, int) {
    float x[kBlock], y[kBlock];
    double total = 0;
    for (int64_t i = head; i < lse.size(); i += g.heads) {
      float delta = 0;
      for (int64_t d = 0; d < g.width; d += kBlock) {
        const int64_t count = std::min(kBlock, g.width - d);
        const float *a = load(dout, i * g.width + d, count, x), *c = load(out, i * g.width + d, count, y);
#pragma omp simd reduction(+ : delta)
        for (int64_t j = 0; j < count; j++) delta += a[j] * c[j];
      }
      total += std::exp(g.sinks[head] - *f32_at(lse, i)) * delta;
    }
    *f32_at(dsinks, head) -= static_cast<float>(total);
  });
}

}  // namespace

void attention_backward(const Call& call, Pool& pool) {
  using namespace attention_backward_op;
  const Tensor &q = call.inputs[i_q], &k = call.inputs[i_k], &v = call.inputs[i_v];
  const Tensor &dq = call.outputs[o_dq], &dk = call.outputs[o_dk], &dv = call.outputs[o_dv];
  const Geometry g(q, k, v, call.inputs[i_segments], call.inputs[i_sinks], Attributes(call.attributes));
  expect_floats(call.inputs[i_out], call.inputs[i_dout], dq, dk, dv);
  expect(same_shape(q, call.inputs[i_out]) && same_shape(q, call.inputs[i_dout]) && same_shape(q, dq), "out, dout and dq of q's shape");
  expect(same_shape(k, dk) && same_shape(v, dv), "dk and dv of k's shape");
  expect_vector(call.inputs[i_lse], DType::f32, q.shape[0] * g.heads, "lse [Tq, H] f32");
  const Tensor& dsinks = call.outputs[o_dsinks];
  if (dsinks) expect_vector(dsinks, DType::f32, g.heads, "dsinks [H] f32");
  expect(!dsinks || g.sinks, "sinks whose gradient is asked for");
  std::vector<Task> tasks = backward_tasks(g, pool.threads());
  const int64_t lanes = Packed::size(g, true), depths = Packed::size(g, false);
  int64_t bytes = (2 * lanes + depths) * 4 + 256;
  for (const Task& t : tasks) bytes += 2 * (round_up(t.segment->keys, kSpan) * g.padded * 4 + 64);
  Carver c{static_cast<char*>(pool.scratch(0, Slot::shared, bytes))};
  const Packed keys{g, c.take<uint32_t>(lanes), true}, values{g, c.take<uint32_t>(lanes), true}, depth{g, c.take<uint32_t>(depths), false};
  for (Task& t : tasks) {
    t.dk = c.take<float>(round_up(t.segment->keys, kSpan) * g.padded);
    t.dv = c.take<float>(round_up(t.segment->keys, kSpan) * g.padded);
  }
  each_span(g, pool, [&](const Segment& s, int64_t key, int64_t group) {
    keys.pack(k, s, key, group);
    values.pack(v, s, key, group);
    depth.pack(k, s, key, group);
  });
  with_rows(g.form, [&](auto rows) {
    constexpr int Rows = decltype(rows)::value;
    pool.each(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) {
      backward<Rows>(g, tasks[i], call, keys, values, depth, pool, thread);
    });
  });
  store_keys(g, tasks, dk, dv, pool);
  if (dsinks) sink_gradients(g, call.inputs[i_out], call.inputs[i_dout], call.inputs[i_lse], dsinks, pool);
}

}  // namespace lowrank::LOWRANK_ISA
