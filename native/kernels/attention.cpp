// Attention: packed keys and values meet tiles of kRows query rows.
//
// The query heads that read one key/value head are rows beside each other: row r of a (segment, group) is query r / shared, head
// group · shared + r % shared. Keys and values are packed once per call, in spans of kSpan keys, and are shared by the threads.
// Forward, a tile's scores against all keys that it sees stand in a buffer [kRows, keys], so the softmax needs no rescaling; memory is
// linear in the length. Backward (Dao et al. 2022, §3.1, algorithm 4 recomputes as we do), a block of kSpan rows meets a span at a time.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "gemm.h"
#include "simd.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// Keys of a span, and rows of a block backward: a multiple of the tile's sides on every instruction set.
constexpr int64_t kSpan = 96;
static_assert(kSpan % kRows == 0 && kSpan % kColumns == 0);
// Tiles of a forward task.
constexpr int64_t kTaskTiles = 16;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Segment {
  int64_t query, queries, key, keys;
  int64_t span;  // its first one in the packed keys

  // Keys [first, last) of the segment that a query of it sees.
  int64_t last_key(int64_t i) const { return keys - queries + i + 1; }
  int64_t first_key(int64_t i, int64_t window) const { return window > 0 ? std::max<int64_t>(0, last_key(i) - window) : 0; }
};

// A run of rows of one segment and group.
struct Task {
  const Segment* segment;
  int64_t group, begin, end;
  float *dk, *dv;  // backward: its own sums over its rows, [keys in whole spans][padded]
};

struct Geometry {
  int64_t heads, groups, shared;
  int64_t width, padded;  // of a head; the same in whole panels
  float scale;
  int64_t window;
  Form form;
  std::vector<Segment> segments;
  int64_t spans = 0;

  Geometry(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const double* attributes) {
    expect_floats(q, k, v);
    width = static_cast<int64_t>(attributes[0]);
    expect(q.rank == 2 && k.rank == 2 && width > 0 && q.shape[1] % width == 0 && k.shape[1] % width == 0, "q and k of whole heads");
    expect(same_shape(k, v), "k and v of one shape");
    heads = q.shape[1] / width;
    groups = k.shape[1] / width;
    expect(groups > 0 && heads % groups == 0, "as many query heads per key/value head");
    shared = heads / groups;
    padded = round_up(width, kColumns);
    scale = static_cast<float>(attributes[1]);
    window = static_cast<int64_t>(attributes[2]);
    form = q.dtype == DType::f32 && k.dtype == DType::f32 && v.dtype == DType::f32 ? Form::exact : kNarrow;
    expect(table.dtype == DType::i32 && table.rank == 2 && table.shape[1] == 4, "segments [S, 4] i32");
    const auto* s = static_cast<const int32_t*>(table.data);
    int64_t query = 0;
    for (int64_t i = 0; i < table.shape[0]; i++, s += 4) {
      const int64_t queries = s[1] - s[0], keys = s[3] - s[2];
      if (s[0] != query || queries < 0 || s[1] > q.shape[0] || s[2] < 0 || keys < queries || s[3] > k.shape[0])
        fail("segment %lld (%d, %d, %d, %d) does not fit %lld queries and %lld keys", (long long)i, s[0], s[1], s[2], s[3],
             (long long)q.shape[0], (long long)k.shape[0]);
      segments.push_back({query, queries, s[2], keys, spans});
      spans += (keys + kSpan - 1) / kSpan;
      query = s[1];
    }
    expect(query == q.shape[0], "segments that cover all queries");
  }

  int64_t steps() const { return steps_of(form, width); }
  int64_t span_steps() const { return steps_of(form, kSpan); }
  int64_t rows(const Segment& s) const { return s.queries * shared; }
  int64_t last_key(const Task& t, int64_t row) const { return t.segment->last_key(row / shared); }
  int64_t first_key(const Task& t, int64_t row) const { return t.segment->first_key(row / shared, window); }
  // Number of a row among the rows [Tq · H] of q.
  int64_t query_row(const Task& t, int64_t row) const {
    return (t.segment->query + row / shared) * heads + t.group * shared + row % shared;
  }
};

// Hands out pieces of one block of scratch, each on a cache line of its own.
struct Carver {
  char* next;
  template <class T>
  T* take(int64_t n) {
    T* piece = reinterpret_cast<T*>(next);
    next += round_up(n * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }
};

// Packed factors of all spans and groups. As lanes: panels of kColumns keys over the width. As depth: panels of kColumns numbers of the
// width over a span's keys.
struct Packed {
  const Geometry& g;
  uint32_t* units;
  bool lanes;

  static int64_t size(const Geometry& g, bool lanes) { return g.spans * g.groups * (lanes ? kSpan * g.steps() : g.padded * g.span_steps()); }
  uint32_t* at(int64_t span, int64_t group) const {
    return units + (span * g.groups + group) * (lanes ? kSpan * g.steps() : g.padded * g.span_steps());
  }
  // The panel that begins with this key of the segment.
  const uint32_t* keys(const Task& t, int64_t key) const {
    return at(t.segment->span + key / kSpan, t.group) + key % kSpan * g.steps();
  }
  // The panel of the width's numbers from `column` on, for the span of this key.
  const uint32_t* columns(const Task& t, int64_t key, int64_t column) const {
    return at(t.segment->span + key / kSpan, t.group) + column * g.span_steps();
  }

  void pack(const Tensor& t, const Segment& s, int64_t key, int64_t group) const {
    const int64_t stride = g.groups * g.width, n = std::min(kSpan, s.keys - key);
    uint32_t* out = at(s.span + key / kSpan, group);
    if (lanes)
      for (int64_t i = 0; i < n; i += kColumns)
        pack_panel({&t, true, stride, s.key + key + i, group * g.width}, std::min<int64_t>(kColumns, n - i), kColumns, g.width, g.form, out + i * g.steps());
    else
      for (int64_t d = 0; d < g.width; d += kColumns)
        pack_panel({&t, false, stride, group * g.width + d, s.key + key}, std::min<int64_t>(kColumns, g.width - d), kColumns, n, g.form, out + d * g.span_steps());
  }
};

// Runs pack(segment, key, group) for all spans.
template <class Body>
void each_span(const Geometry& g, Pool& pool, const Body& body) {
  std::vector<const Segment*> owner;
  for (const Segment& s : g.segments) owner.insert(owner.end(), (s.keys + kSpan - 1) / kSpan, &s);
  pool.each(g.spans * g.groups, [&](int64_t i, int) {
    const Segment& s = *owner[i / g.groups];
    body(s, (i / g.groups - s.span) * kSpan, i % g.groups);
  });
}

// Rows [row, row + n) of a task out of x [Tq, H · D], one after the other, in x's dtype.
Tensor gather(const Geometry& g, const Task& t, const Tensor& x, int64_t row, int64_t n, float* memory) {
  const int64_t bytes = g.width * bytes_per_element(x.dtype);
  for (int64_t i = 0; i < n; i++)
    std::memcpy(reinterpret_cast<char*>(memory) + i * bytes, static_cast<char*>(x.data) + g.query_row(t, row + i) * bytes, bytes);
  return {memory, x.dtype, 2, {n, g.width}};
}

Tensor matrix(float* data, int64_t rows, int64_t columns) { return {data, DType::f32, 2, {rows, columns}}; }

// Brings n rows of sums, padded wide, home to out [Tq, H · D].
void store_rows(const Geometry& g, const Task& t, const Tensor& out, int64_t row, int64_t n, const float* sums) {
  for (int64_t i = 0; i < n; i++) copy(matrix(const_cast<float*>(sums), n, g.padded), i * g.padded, out, g.query_row(t, row + i) * g.width, g.width);
}

float max_of(const float* __restrict x, int64_t n) {
  float max = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
  return max;
}

#if defined(__AVX512F__)
// Runs step(j, seen) over [0, n) in steps of 16: which lanes are in [lo, hi). Nearly all are whole.
template <class Step>
inline void each_lanes(int64_t lo, int64_t hi, int64_t n, const Step& step) {
  for (int64_t j = 0; j < n; j += 16) {
    if (j >= lo && j + 16 <= hi) step(j, __mmask16{0xffff});
    else step(j, static_cast<__mmask16>(first(hi - j) & ~first(lo - j)));
  }
}

// As a factor of this form, which is not pairs, holds it.
inline __m512 as_factor(Form form, __m512 x) {
  return form == Form::exact ? x : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(round_lanes(x)), 16));
}
#endif

inline float as_factor(Form form, float x) { return form == Form::exact ? x : from_bf16(to_bf16(x)); }

// Weights are the left factor of products, which read them where they were written, a span at a time. By rows, unit (row, step along the keys) of
// rows of kSpan keys: a row of bf16 where products are of pairs, else of f32. By steps, unit (key, step along the rows) of steps of kSpan keys:
// pairs of rows, each with each, or else the same as by rows.
template <bool Pairs>
constexpr int64_t kRowUnits = Pairs ? kSpan / 2 : kSpan;

// Weights exp(scale · score − shift) of the keys [lo, hi) of a span, 0 in the rest of its first n, into a row; returns their sum. Where weights are
// f32 the row may be the scores'.
float weights_row(const Geometry& g, const float* scores, float shift, int64_t lo, int64_t hi, int64_t n, uint32_t* row) {
#if defined(__AVX512F__)
  __m512 sum = _mm512_setzero_ps();
  each_lanes(lo, hi, n, [&](int64_t j, __mmask16 seen) {
    const __m512 x = _mm512_fmsub_ps(_mm512_maskz_loadu_ps(seen, scores + j), _mm512_set1_ps(g.scale * kLog2E), _mm512_set1_ps(shift * kLog2E));
    const __m512 p = _mm512_maskz_mov_ps(seen, exp2_lanes(x));
    sum = _mm512_add_ps(sum, p);
    if (g.form == Form::pairs) _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + j / 2), round_lanes(p));
    else _mm512_storeu_ps(row + j, as_factor(g.form, p));
  });
  return _mm512_reduce_add_ps(sum);
#else
  auto* p = reinterpret_cast<float*>(row);
  lo = std::clamp<int64_t>(lo, 0, n);
  hi = std::clamp<int64_t>(hi, lo, n);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = lo; j < hi; j++) {
    p[j] = exp_f32(scores[j] * g.scale - shift);
    sum += p[j];
  }
  for (int64_t j = lo; j < hi; j++) p[j] = as_factor(g.form, p[j]);
  std::fill(p, p + lo, 0.f);
  std::fill(p + hi, p + n, 0.f);
  return sum;
#endif
}

// sums [kRows][padded] = weights · values over the keys from `begin` to `end`, span by span, each row times its factor.
template <bool Pairs>
void weigh(const Geometry& g, const Task& t, const uint32_t* weights, const Packed& values, int64_t begin, int64_t end, const float* factors,
           float* out) {
  for (int64_t d = 0; d < g.width; d += kColumns) {
    Lanes sums[kRows][2];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) sums[r][0] = sums[r][1] = Lanes{};
    const uint32_t* span = weights;
    for (int64_t key = begin; key < end; key += kSpan, span += kRows * kRowUnits<Pairs>)
      multiply<Pairs, kRows, 2, kRowUnits<Pairs>, 1>(span, values.columns(t, key, d), steps_of(g.form, std::min(kSpan, end - key)), sums);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++)
      for (int v = 0; v < 2; v++) {
        const Lanes scaled = sums[r][v] * factors[r];
        std::memcpy(out + r * g.padded + d + v * kLanes, &scaled, sizeof scaled);
      }
  }
}

void forward(const Geometry& g, const Task& t, const Call& call, const Packed& keys, const Packed& values, Pool& pool, int thread) {
  using namespace attention_op;
  const int64_t size = kRows * round_up(t.segment->keys, kSpan);
  const auto carve = [&](char* base) {
    Carver c{base};
    struct {
      float *rows, *scores, *sums;
      uint32_t *queries, *weights;
      char* end;
    } s{c.take<float>(kRows * g.width), c.take<float>(size), c.take<float>(kRows * g.padded), c.take<uint32_t>(kRows * g.steps()),
        c.take<uint32_t>(g.form == Form::pairs ? size / 2 : 0), nullptr};
    s.end = c.next;
    return s;
  };
  const auto s = carve(static_cast<char*>(pool.scratch(thread, 1, carve(nullptr).end - static_cast<char*>(nullptr))));
  // Scores and weights lie span by span, rows of kSpan keys.
  uint32_t* weights = g.form == Form::pairs ? s.weights : reinterpret_cast<uint32_t*>(s.scores);
  const int64_t row_units = g.span_steps();
  for (int64_t row = t.begin; row < t.end; row += kRows) {
    const int64_t n = std::min<int64_t>(kRows, t.end - row);
    const int64_t begin = g.first_key(t, row) / kSpan * kSpan, end = g.last_key(t, row + n - 1);
    const Tensor q = gather(g, t, call.inputs[i_q], row, n, s.rows);
    pack_panel({&q, true, g.width}, n, kRows, g.width, g.form, s.queries);
    for (int64_t key = begin; key < end; key += kColumns)
      tile<false, kRows, 2>(g.form, s.queries, keys.keys(t, key), g.steps(), s.scores + (key - begin) / kSpan * kRows * kSpan + key % kSpan, kSpan);
    float inverse[kRows] = {};
    for (int64_t r = 0; r < n; r++) {
      const int64_t lo = g.first_key(t, row + r) - begin, hi = g.last_key(t, row + r) - begin;
      const auto scores = [&](int64_t key) { return s.scores + (key * kRows + r * kSpan); };
      float max = -std::numeric_limits<float>::infinity(), sum = 0;
      for (int64_t key = 0; key < hi; key += kSpan) {
        const int64_t from = std::clamp<int64_t>(lo - key, 0, kSpan);
        max = std::max(max, max_of(scores(key) + from, std::min(hi - key, kSpan) - from));
      }
      const float shift = g.scale * max;
      for (int64_t key = 0; key < end - begin; key += kSpan)
        sum += weights_row(g, scores(key), shift, lo - key, hi - key, std::min(kSpan, end - begin - key), weights + (key / kSpan * kRows + r) * row_units);
      *f32_at(call.outputs[o_lse], g.query_row(t, row + r)) = shift + std::log(sum);
      inverse[r] = 1.f / sum;
    }
    if (kHasPairs && g.form == Form::pairs) weigh<kHasPairs>(g, t, weights, values, begin, end, inverse, s.sums);
    else weigh<false>(g, t, weights, values, begin, end, inverse, s.sums);
    store_rows(g, t, call.outputs[o_out], row, n, s.sums);
  }
}

// What a thread needs for a block of kSpan rows backward.
struct Block {
  float *q, *dout, *out;          // rows as they are stored
  uint32_t *q_tiles, *dout_tiles; // panels of kRows rows over the width
  uint32_t *q_depth, *dout_depth; // panels of kColumns numbers of the width over the rows
  float *scores, *dp;             // [kRows][kSpan keys] of a tile: q·k, dout·v
  uint32_t *p, *ds;               // by steps: the weights of all rows, and the gradients of the scores
  uint32_t* ds_rows;              // by rows: those of a tile
  float* dq;                      // [kSpan][padded]
  float lse[kSpan] = {}, delta[kSpan] = {};

  char* carve(const Geometry& g, char* base) {
    Carver c{base};
    for (float** rows : {&q, &dout, &out}) *rows = c.take<float>(kSpan * g.width);
    for (uint32_t** tiles : {&q_tiles, &dout_tiles}) *tiles = c.take<uint32_t>(kSpan * g.steps());
    for (uint32_t** depth : {&q_depth, &dout_depth}) *depth = c.take<uint32_t>(g.padded * g.span_steps());
    for (float** tile : {&scores, &dp}) *tile = c.take<float>(kRows * kSpan);
    for (uint32_t** steps : {&p, &ds}) *steps = c.take<uint32_t>(g.span_steps() * kSpan);
    ds_rows = c.take<uint32_t>(kRows * g.span_steps());
    dq = c.take<float>(kSpan * g.padded);
    return c.next;
  }
};

void pack_block(const Geometry& g, const Task& t, const Call& call, int64_t row, int64_t n, Block& b) {
  using namespace attention_backward_op;
  const Tensor q = gather(g, t, call.inputs[i_q], row, n, b.q), dout = gather(g, t, call.inputs[i_dout], row, n, b.dout);
  const Tensor out = gather(g, t, call.inputs[i_out], row, n, b.out);
  const auto pack = [&](const Tensor& x, uint32_t* tiles, uint32_t* depth) {
    for (int64_t r = 0; r < n; r += kRows)
      pack_panel({&x, true, g.width, r}, std::min<int64_t>(kRows, n - r), kRows, g.width, g.form, tiles + r * g.steps());
    for (int64_t d = 0; d < g.width; d += kColumns)
      pack_panel({&x, false, g.width, d}, std::min<int64_t>(kColumns, g.width - d), kColumns, n, g.form, depth + d * g.span_steps());
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

// The weights p = exp(scale · score − lse) and gradients ds = scale · p · (dout·v − delta) of a tile, rows r … r + kRows of the block: of row i
// those of the keys [lo[i], hi[i]) of a span, 0 in the rest of its first `count`.
void tile_gradients(const Geometry& g, int64_t r, const int64_t* lo, const int64_t* hi, int64_t count, Block& b) {
  const int64_t step_units = kSpan * r / (g.form == Form::pairs ? 2 : 1);
  uint32_t *p = b.p + step_units, *ds = b.ds + step_units;
#if defined(__AVX512F__)
  struct Pair {
    __m512 p, ds;
  };
  const auto pair = [&](int i, int64_t j, __mmask16 seen) {
    const __m512 scale = _mm512_set1_ps(g.scale * kLog2E), shift = _mm512_set1_ps(b.lse[r + i] * kLog2E);
    const __m512 weight = _mm512_maskz_mov_ps(seen, exp2_lanes(_mm512_fmsub_ps(_mm512_maskz_loadu_ps(seen, b.scores + i * kSpan + j), scale, shift)));
    // The difference first: where a row sees one key it is 0.
    const __m512 slope = _mm512_sub_ps(_mm512_maskz_loadu_ps(seen, b.dp + i * kSpan + j), _mm512_set1_ps(b.delta[r + i]));
    return Pair{weight, _mm512_mul_ps(_mm512_mul_ps(weight, _mm512_set1_ps(g.scale)), slope)};
  };
#if defined(__AVX512BF16__)
  if (g.form == Form::pairs) {
    alignas(64) static constexpr auto order = [] {
      std::array<uint16_t, 32> o{};
      for (int i = 0; i < 16; i++) o[2 * i] = static_cast<uint16_t>(i), o[2 * i + 1] = static_cast<uint16_t>(16 + i);
      return o;
    }();
    const __m512i both = _mm512_load_si512(order.data());
    auto* rows = reinterpret_cast<__m256i*>(b.ds_rows);
    for (int i = 0; i < kRows; i += 2, p += kSpan, ds += kSpan, rows += 2 * kSpan / 16)
      for (int64_t j = 0; j < count; j += 16) {
        const auto seen = [&](int row) { return static_cast<__mmask16>(first(hi[row] - j) & ~first(lo[row] - j)); };
        const Pair even = pair(i, j, seen(i)), odd = pair(i + 1, j, seen(i + 1));
        const auto weights = (__m512i)_mm512_cvtne2ps_pbh(odd.p, even.p), slopes = (__m512i)_mm512_cvtne2ps_pbh(odd.ds, even.ds);
        _mm512_storeu_si512(p + j, _mm512_permutexvar_epi16(both, weights));
        _mm512_storeu_si512(ds + j, _mm512_permutexvar_epi16(both, slopes));
        _mm256_storeu_si256(rows + j / 16, _mm512_castsi512_si256(slopes));
        _mm256_storeu_si256(rows + kSpan / 16 + j / 16, _mm512_extracti64x4_epi64(slopes, 1));
      }
    return;
  }
#endif
  for (int i = 0; i < kRows; i++)
    each_lanes(lo[i], hi[i], count, [&](int64_t j, __mmask16 seen) {
      const Pair both = pair(i, j, seen);
      _mm512_storeu_ps(p + i * kSpan + j, as_factor(g.form, both.p));
      _mm512_storeu_ps(ds + i * kSpan + j, as_factor(g.form, both.ds));
    });
#else
  for (int i = 0; i < kRows; i++) {
    auto *weight = reinterpret_cast<float*>(p + i * kSpan), *slope = reinterpret_cast<float*>(ds + i * kSpan);
    std::fill_n(weight, count, 0.f);
    std::fill_n(slope, count, 0.f);
    const float *scores = b.scores + i * kSpan, *dp = b.dp + i * kSpan, lse = b.lse[r + i], delta = b.delta[r + i];
#pragma omp simd
    for (int64_t j = lo[i]; j < hi[i]; j++) {
      const float e = exp_f32(scores[j] * g.scale - lse);
      weight[j] = as_factor(g.form, e);
      slope[j] = as_factor(g.form, e * (dp[j] - delta) * g.scale);
    }
  }
#endif
}

// p and ds of one tile of rows against the span at `key`, and their part of dq. Returns whether the tile sees the span at all.
bool backward_tile(const Geometry& g, const Task& t, const Packed& keys, const Packed& values, const Packed& depth, int64_t row, int64_t r,
                   int64_t n, int64_t key, int64_t count, Block& b) {
  const int64_t end = std::min(count, g.last_key(t, row + r + n - 1) - key);
  const bool pairs = g.form == Form::pairs;
  if (end <= 0 || g.first_key(t, row + r) >= key + count) {
    for (uint32_t* steps : {b.p, b.ds}) std::fill_n(steps + kSpan * r / (pairs ? 2 : 1), kSpan * kRows / (pairs ? 2 : 1), 0);
    return false;
  }
  for (int64_t i = 0; i < end; i += kColumns) {
    tile<false, kRows, 2>(g.form, b.q_tiles + r * g.steps(), keys.keys(t, key + i), g.steps(), b.scores + i, kSpan);
    tile<false, kRows, 2>(g.form, b.dout_tiles + r * g.steps(), values.keys(t, key + i), g.steps(), b.dp + i, kSpan);
  }
  int64_t lo[kRows] = {}, hi[kRows] = {};
  for (int64_t i = 0; i < n; i++) {
    lo[i] = std::clamp<int64_t>(g.first_key(t, row + r + i) - key, 0, count);
    hi[i] = std::clamp<int64_t>(g.last_key(t, row + r + i) - key, lo[i], count);
  }
  tile_gradients(g, r, lo, hi, count, b);
  for (int64_t d = 0; d < g.width; d += kColumns) {
    float* dq = b.dq + r * g.padded + d;
    const uint32_t* panel = depth.columns(t, key, d);
    if (pairs) tile<true, kRows, 2, kRowUnits<true>, 1>(g.form, b.ds_rows, panel, steps_of(g.form, end), dq, g.padded);
    else tile<true, kRows, 2, kRowUnits<false>, 1>(g.form, b.ds + r * kSpan, panel, steps_of(g.form, end), dq, g.padded);
  }
  return true;
}

// out [count keys][padded] += squareᵀ · x, with the square by steps and x packed over the block's n rows.
void add_transposed(const Geometry& g, const uint32_t* square, const uint32_t* depth, int64_t n, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kRows)
    for (int64_t d = 0; d < g.width; d += kColumns)
      tile<true, kRows, 2, 1, kSpan>(g.form, square + i, depth + d * g.span_steps(), steps_of(g.form, n), out + i * g.padded + d, g.padded);
}

void backward(const Geometry& g, const Task& t, const Call& call, const Packed& keys, const Packed& values, const Packed& depth, Pool& pool,
              int thread) {
  Block b;
  b.carve(g, static_cast<char*>(pool.scratch(thread, 1, b.carve(g, nullptr) - static_cast<char*>(nullptr))));
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
      for (int64_t r = 0; r < n; r += kRows)
        seen |= backward_tile(g, t, keys, values, depth, row, r, std::min<int64_t>(kRows, n - r), key, count, b);
      if (!seen) continue;
      const int64_t visible = std::min(count, end - key);
      add_transposed(g, b.p, b.dout_depth, n, visible, t.dv + key * g.padded);
      add_transposed(g, b.ds, b.q_depth, n, visible, t.dk + key * g.padded);
    }
    store_rows(g, t, call.outputs[attention_backward_op::o_dq], row, n, b.dq);
  }
}

// Cuts each (segment, group) into so many runs of rows that every thread has several tasks. Later rows see more keys: the cuts lie at
// √(i/parts), where the work is equal. Each run gets sums of its own, which makes the result independent of who computes it when.
std::vector<Task> backward_tasks(const Geometry& g, int threads) {
  const auto pairs = static_cast<int64_t>(g.segments.size()) * g.groups;
  std::vector<Task> tasks;
  for (const Segment& s : g.segments) {
    const int64_t rows = g.rows(s), most = std::max<int64_t>(1, rows / (4 * kSpan));
    const int64_t parts = std::clamp<int64_t>(pairs == 0 ? 1 : (4 * threads + pairs - 1) / pairs, 1, most);
    const auto cut = [&](int64_t i) {
      if (i == parts) return rows;
      return round_up(static_cast<int64_t>(static_cast<double>(rows) * std::sqrt(static_cast<double>(i) / static_cast<double>(parts))), kSpan);
    };
    for (int64_t group = 0; group < g.groups; group++)
      for (int64_t i = parts - 1; i >= 0; i--) tasks.push_back({&s, group, cut(i), cut(i + 1), nullptr, nullptr});
  }
  return tasks;
}

// dk and dv of all keys: the sums of the tasks of each (segment, group), in their order.
void store_keys(const Geometry& g, const std::vector<Task>& tasks, const Tensor& dk, const Tensor& dv, Pool& pool) {
  std::vector<size_t> firsts;
  for (size_t i = 0; i < tasks.size(); i++)
    if (i == 0 || tasks[i].segment != tasks[i - 1].segment || tasks[i].group != tasks[i - 1].group) firsts.push_back(i);
  pool.each(static_cast<int64_t>(firsts.size()), [&](int64_t index, int) {
    const size_t first = firsts[index];
    const size_t last = index + 1 < static_cast<int64_t>(firsts.size()) ? firsts[index + 1] : tasks.size();
    const Task& t = tasks[first];
    const int64_t size = t.segment->keys * g.padded;
    const auto home = [&](float* sums, const Tensor& out, int64_t key) {
      const int64_t at = ((t.segment->key + key) * g.groups + t.group) * g.width;
      copy(matrix(sums, t.segment->keys, g.padded), key * g.padded, out, at, g.width);
    };
    for (size_t i = first + 1; i < last; i++)
      for (int64_t j = 0; j < size; j++) {
        t.dk[j] += tasks[i].dk[j];
        t.dv[j] += tasks[i].dv[j];
      }
    for (int64_t key = 0; key < t.segment->keys; key++) {
      home(t.dk, dk, key);
      home(t.dv, dv, key);
    }
  });
}

}  // namespace

void attention(const Call& call, Pool& pool) {
  using namespace attention_op;
  const Tensor &q = call.inputs[i_q], &k = call.inputs[i_k], &v = call.inputs[i_v], &out = call.outputs[o_out];
  const Geometry g(q, k, v, call.inputs[i_segments], call.attributes);
  expect_floats(out);
  expect(same_shape(q, out), "out of q's shape");
  expect_vector(call.outputs[o_lse], DType::f32, q.shape[0] * g.heads, "lse [Tq, H] f32");
  Carver c{static_cast<char*>(pool.scratch(0, 0, (Packed::size(g, true) + Packed::size(g, false)) * 4 + 128))};
  const Packed keys{g, c.take<uint32_t>(Packed::size(g, true)), true}, values{g, c.take<uint32_t>(Packed::size(g, false)), false};
  each_span(g, pool, [&](const Segment& s, int64_t key, int64_t group) {
    keys.pack(k, s, key, group);
    values.pack(v, s, key, group);
  });
  std::vector<Task> tasks;
  for (const Segment& s : g.segments)
    for (int64_t group = 0; group < g.groups; group++)
      // The last rows see the most keys: they go first, so that the threads end together.
      for (int64_t end = g.rows(s); end > 0;) {
        const int64_t begin = (end - 1) / (kTaskTiles * kRows) * (kTaskTiles * kRows);
        tasks.push_back({&s, group, begin, end, nullptr, nullptr});
        end = begin;
      }
  pool.each(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) { forward(g, tasks[i], call, keys, values, pool, thread); });
}

void attention_backward(const Call& call, Pool& pool) {
  using namespace attention_backward_op;
  const Tensor &q = call.inputs[i_q], &k = call.inputs[i_k], &v = call.inputs[i_v];
  const Tensor &dq = call.outputs[o_dq], &dk = call.outputs[o_dk], &dv = call.outputs[o_dv];
  const Geometry g(q, k, v, call.inputs[i_segments], call.attributes);
  expect_floats(call.inputs[i_out], call.inputs[i_dout], dq, dk, dv);
  expect(same_shape(q, call.inputs[i_out]) && same_shape(q, call.inputs[i_dout]) && same_shape(q, dq), "out, dout and dq of q's shape");
  expect(same_shape(k, dk) && same_shape(v, dv), "dk and dv of k's shape");
  expect_vector(call.inputs[i_lse], DType::f32, q.shape[0] * g.heads, "lse [Tq, H] f32");
  std::vector<Task> tasks = backward_tasks(g, pool.threads());
  const int64_t lanes = Packed::size(g, true), depths = Packed::size(g, false);
  int64_t bytes = (2 * lanes + depths) * 4 + 256;
  for (const Task& t : tasks) bytes += 2 * (round_up(t.segment->keys, kSpan) * g.padded * 4 + 64);
  Carver c{static_cast<char*>(pool.scratch(0, 0, bytes))};
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
  pool.each(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) { backward(g, tasks[i], call, keys, values, depth, pool, thread); });
  store_keys(g, tasks, dk, dv, pool);
}

}  // namespace lowrank::LOWRANK_ISA
