// Attention: packed keys and values meet tiles of kRows query rows.
//
// The query heads that read one key/value head are rows beside each other: row r of a (segment, group) is query r / shared, head
// group · shared + r % shared. Keys and values are packed once per call, in spans of kSpan keys, and are shared by the threads.
// Forward, a tile's scores against all keys that it sees stand in a buffer [kRows, keys], so the softmax needs no rescaling; memory is
// linear in the length. Backward (Dao et al. 2022, §3.1, algorithm 4 recomputes as we do), a block of kSpan rows meets a span at a time.
#include <algorithm>
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

// Rows of scores become rows of weights: f32 in place, or bf16 beside them where products are of bf16, so that packing only moves them.
DType weights_dtype(const Geometry& g) { return g.form == Form::pairs ? DType::bf16 : DType::f32; }

float max_of(const float* __restrict x, int64_t n) {
  float max = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
  return max;
}

#if defined(__AVX512F__)
// exp_f32's polynomial with the power of two in one instruction.
inline __m512 exp_lanes(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x));
  __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(0.0013814538f), r, _mm512_set1_ps(0.008368745f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.04166839f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.16666521f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.49999994f));
  const __m512 e = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(q, r), r, r), _mm512_set1_ps(1.f));
  return _mm512_scalef_ps(e, n);
}

// Runs step(j, seen, inside) over [begin, end) in steps of 16: which lanes are in [lo, hi), and which in front of `end`. Nearly all are whole.
template <class Step>
inline void each_lanes(int64_t begin, int64_t lo, int64_t hi, int64_t end, const Step& step) {
  for (int64_t j = begin; j < end; j += 16) {
    if (j >= lo && j + 16 <= hi) step(j, __mmask16{0xffff}, __mmask16{0xffff});
    else step(j, static_cast<__mmask16>(first(hi - j) & ~first(lo - j)), first(end - j));
  }
}

inline void store_lanes(const Tensor& t, int64_t at, __mmask16 mask, __m512 x) {
  if (t.dtype == DType::bf16) _mm256_mask_storeu_epi16(half_at(t, at), mask, round_lanes(x));
  else _mm512_mask_storeu_ps(f32_at(t, at), mask, x);
}
#endif

// Weights exp(scale · score − shift) of [lo, hi), 0 in the rest of [begin, end), into element `at` + j of `weights`; returns their sum.
float weights_row(const float* scores, float scale, float shift, int64_t begin, int64_t lo, int64_t hi, int64_t end, const Tensor& weights,
                  int64_t at) {
#if defined(__AVX512F__)
  __m512 sum = _mm512_setzero_ps();
  each_lanes(begin, lo, hi, end, [&](int64_t j, __mmask16 seen, __mmask16 inside) {
    const __m512 x = _mm512_fmsub_ps(_mm512_maskz_loadu_ps(seen, scores + j), _mm512_set1_ps(scale), _mm512_set1_ps(shift));
    const __m512 p = _mm512_maskz_mov_ps(seen, exp_lanes(x));
    sum = _mm512_add_ps(sum, p);
    store_lanes(weights, at + j, inside, p);
  });
  return _mm512_reduce_add_ps(sum);
#else
  float* p = f32_at(weights, at);
  float sum = 0;
  for (int64_t j = begin; j < lo; j++) p[j] = 0;
  for (int64_t j = hi; j < end; j++) p[j] = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = lo; j < hi; j++) {
    p[j] = exp_f32(scores[j] * scale - shift);
    sum += p[j];
  }
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
    const uint32_t* panel = weights;
    for (int64_t key = begin; key < end; key += kSpan, panel += kRows * g.span_steps())
      multiply<Pairs, kRows, 2>(panel, values.columns(t, key, d), steps_of(g.form, std::min(kSpan, end - key)), sums);
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
  const int64_t stride = round_up(t.segment->keys, kSpan);
  const auto carve = [&](char* base) {
    Carver c{base};
    struct {
      float *rows, *scores, *halves, *sums;
      uint32_t *queries, *weights;
      char* end;
    } s{c.take<float>(kRows * g.width), c.take<float>(kRows * stride), c.take<float>(kRows * stride / 2), c.take<float>(kRows * g.padded),
        c.take<uint32_t>(kRows * g.steps()), c.take<uint32_t>(kRows * g.span_steps() * (stride / kSpan)), nullptr};
    s.end = c.next;
    return s;
  };
  const auto s = carve(static_cast<char*>(pool.scratch(thread, 1, carve(nullptr).end - static_cast<char*>(nullptr))));
  const DType dtype = weights_dtype(g);
  const Tensor weights{dtype == DType::f32 ? s.scores : s.halves, dtype, 2, {kRows, stride}};
  for (int64_t row = t.begin; row < t.end; row += kRows) {
    const int64_t n = std::min<int64_t>(kRows, t.end - row);
    const int64_t begin = g.first_key(t, row) / kSpan * kSpan, end = g.last_key(t, row + n - 1);
    const Tensor q = gather(g, t, call.inputs[i_q], row, n, s.rows);
    pack_panel({&q, true, g.width}, n, kRows, g.width, g.form, s.queries);
    for (int64_t key = begin; key < end; key += kColumns)
      tile<false, kRows, 2>(g.form, s.queries, keys.keys(t, key), g.steps(), s.scores + key, stride);
    float inverse[kRows] = {};
    for (int64_t r = 0; r < n; r++) {
      const int64_t lo = g.first_key(t, row + r), hi = g.last_key(t, row + r);
      const float* scores = s.scores + r * stride;
      const float shift = g.scale * max_of(scores + lo, hi - lo);
      const float sum = weights_row(scores, g.scale, shift, begin, lo, hi, end, weights, r * stride);
      *f32_at(call.outputs[o_lse], g.query_row(t, row + r)) = shift + std::log(sum);
      inverse[r] = 1.f / sum;
    }
    uint32_t* panel = s.weights;
    for (int64_t key = begin; key < end; key += kSpan, panel += kRows * g.span_steps())
      pack_panel({&weights, true, stride, 0, key}, n, kRows, std::min(kSpan, end - key), g.form, panel);
    if (kHasPairs && g.form == Form::pairs) weigh<kHasPairs>(g, t, s.weights, values, begin, end, inverse, s.sums);
    else weigh<false>(g, t, s.weights, values, begin, end, inverse, s.sums);
    store_rows(g, t, call.outputs[o_out], row, n, s.sums);
  }
}

// What a thread needs for a block of kSpan rows backward.
struct Block {
  float *q, *dout, *out;          // rows as they are stored
  uint32_t *q_tiles, *dout_tiles; // panels of kRows rows over the width
  uint32_t *q_depth, *dout_depth; // panels of kColumns numbers of the width over the rows
  float *p, *ds;                  // [kSpan rows][kSpan keys]: scores and dout·v
  float *p_halves, *ds_halves;    // the weights and their gradients, where they are bf16
  float* dq;                      // [kSpan][padded]
  uint32_t* panel;
  float lse[kSpan], delta[kSpan];

  Tensor weights(const Geometry& g) const { return square(g, p, p_halves); }
  Tensor gradients(const Geometry& g) const { return square(g, ds, ds_halves); }
  static Tensor square(const Geometry& g, float* floats, float* halves) {
    return {weights_dtype(g) == DType::f32 ? floats : halves, weights_dtype(g), 2, {kSpan, kSpan}};
  }

  char* carve(const Geometry& g, char* base) {
    Carver c{base};
    for (float** rows : {&q, &dout, &out}) *rows = c.take<float>(kSpan * g.width);
    for (uint32_t** tiles : {&q_tiles, &dout_tiles}) *tiles = c.take<uint32_t>(kSpan * g.steps());
    for (uint32_t** depth : {&q_depth, &dout_depth}) *depth = c.take<uint32_t>(g.padded * g.span_steps());
    for (float** square : {&p, &ds}) *square = c.take<float>(kSpan * kSpan);
    for (float** square : {&p_halves, &ds_halves}) *square = c.take<float>(kSpan * kSpan / 2);
    dq = c.take<float>(kSpan * g.padded);
    panel = c.take<uint32_t>(kRows * g.span_steps());
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

// A row of weights p = exp(scale · score − lse) and of gradients ds = scale · p · (dout·v − delta) in [lo, hi), 0 in the rest of [0, count).
void gradients_row(const float* scores, const float* dp, float scale, float lse, float delta, int64_t lo, int64_t hi, int64_t count,
                   const Tensor& p, const Tensor& ds, int64_t at) {
#if defined(__AVX512F__)
  each_lanes(0, lo, hi, count, [&](int64_t j, __mmask16 seen, __mmask16 inside) {
    const __m512 x = _mm512_fmsub_ps(_mm512_maskz_loadu_ps(seen, scores + j), _mm512_set1_ps(scale), _mm512_set1_ps(lse));
    const __m512 weight = _mm512_maskz_mov_ps(seen, exp_lanes(x));
    const __m512 slope = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(seen, dp + j), _mm512_set1_ps(delta)), _mm512_set1_ps(scale));
    store_lanes(p, at + j, inside, weight);
    store_lanes(ds, at + j, inside, _mm512_mul_ps(weight, slope));
  });
#else
  float *to = f32_at(p, at), *slope = f32_at(ds, at);
  for (float* row : {to, slope}) {
    std::fill_n(row, lo, 0.f);
    std::fill(row + hi, row + count, 0.f);
  }
#pragma omp simd
  for (int64_t j = lo; j < hi; j++) {
    to[j] = exp_f32(scores[j] * scale - lse);
    slope[j] = to[j] * (dp[j] - delta) * scale;
  }
#endif
}

// p and ds of one tile of rows against the span at `key`, and their part of dq. Returns whether the tile sees the span at all.
bool backward_tile(const Geometry& g, const Task& t, const Packed& keys, const Packed& values, const Packed& depth, int64_t row, int64_t r,
                   int64_t n, int64_t key, int64_t count, Block& b) {
  const int64_t end = std::min(count, g.last_key(t, row + r + n - 1) - key);
  const Tensor weights = b.weights(g), gradients = b.gradients(g);
  if (end <= 0 || g.first_key(t, row + r) >= key + count) {
    const int64_t width = bytes_per_element(weights.dtype);
    for (const Tensor& square : {weights, gradients}) std::memset(static_cast<char*>(square.data) + r * kSpan * width, 0, n * kSpan * width);
    return false;
  }
  float *p = b.p + r * kSpan, *ds = b.ds + r * kSpan;
  for (int64_t i = 0; i < end; i += kColumns) {
    tile<false, kRows, 2>(g.form, b.q_tiles + r * g.steps(), keys.keys(t, key + i), g.steps(), p + i, kSpan);
    tile<false, kRows, 2>(g.form, b.dout_tiles + r * g.steps(), values.keys(t, key + i), g.steps(), ds + i, kSpan);
  }
  for (int64_t i = 0; i < n; i++) {
    const int64_t lo = std::clamp<int64_t>(g.first_key(t, row + r + i) - key, 0, count);
    const int64_t hi = std::clamp<int64_t>(g.last_key(t, row + r + i) - key, lo, count);
    gradients_row(p + i * kSpan, ds + i * kSpan, g.scale, b.lse[r + i], b.delta[r + i], lo, hi, count, weights, gradients, (r + i) * kSpan);
  }
  pack_panel({&gradients, true, kSpan, r}, n, kRows, end, g.form, b.panel);
  for (int64_t d = 0; d < g.width; d += kColumns)
    tile<true, kRows, 2>(g.form, b.panel, depth.columns(t, key, d), steps_of(g.form, end), b.dq + r * g.padded + d, g.padded);
  return true;
}

// out [count keys][padded] += squareᵀ · x, with x packed over the block's n rows.
void add_transposed(const Geometry& g, const Tensor& square, const uint32_t* depth, int64_t n, int64_t count, Block& b, float* out) {
  for (int64_t i = 0; i < count; i += kRows) {
    pack_panel({&square, false, kSpan, i}, std::min<int64_t>(kRows, count - i), kRows, n, g.form, b.panel);
    for (int64_t d = 0; d < g.width; d += kColumns)
      tile<true, kRows, 2>(g.form, b.panel, depth + d * g.span_steps(), steps_of(g.form, n), out + i * g.padded + d, g.padded);
  }
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
      add_transposed(g, b.weights(g), b.dout_depth, n, visible, b, t.dv + key * g.padded);
      add_transposed(g, b.gradients(g), b.q_depth, n, visible, b, t.dk + key * g.padded);
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
      for (int64_t i = 0; i < parts; i++) tasks.push_back({&s, group, cut(i), cut(i + 1), nullptr, nullptr});
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
      for (int64_t row = 0; row < g.rows(s); row += kTaskTiles * kRows)
        tasks.push_back({&s, group, row, std::min(g.rows(s), row + kTaskTiles * kRows), nullptr, nullptr});
  // The last rows see the most keys: they go first, so that the threads end together.
  const auto count = static_cast<int64_t>(tasks.size());
  pool.each(count, [&](int64_t i, int thread) { forward(g, tasks[count - 1 - i], call, keys, values, pool, thread); });
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
  const auto count = static_cast<int64_t>(tasks.size());
  pool.each(count, [&](int64_t i, int thread) { backward(g, tasks[count - 1 - i], call, keys, values, depth, pool, thread); });
  store_keys(g, tasks, dk, dv, pool);
}

}  // namespace lowrank::LOWRANK_ISA
