// What attention and its gradient share. Packed keys and values meet tiles of so many query rows: kTileRows where products run in tile registers,
// else kRows.
//
// The query heads that read one key/value head are rows beside each other: row r of a (segment, group) is query r / shared, head
// group · shared + r % shared. Keys and values are packed once per call, in spans of kSpan keys, and are shared by the threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "gemm.h"

namespace lowrank::LOWRANK_ISA {

// Keys of a span, and rows of a block backward: a multiple of the tile's sides on every instruction set.
inline constexpr int64_t kSpan = 96;
static_assert(kSpan % kRows == 0 && kSpan % kColumns == 0 && kSpan % kTileRows == 0);

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
inline Tensor gather(const Geometry& g, const Task& t, const Tensor& x, int64_t row, int64_t n, float* memory) {
  const int64_t bytes = g.width * bytes_per_element(x.dtype);
  // The heads of a query lie side by side.
  for (int64_t i = 0, some; i < n; i += some) {
    some = std::min(g.shared - (row + i) % g.shared, n - i);
    std::memcpy(reinterpret_cast<char*>(memory) + i * bytes, static_cast<char*>(x.data) + g.query_row(t, row + i) * bytes, some * bytes);
  }
  return {memory, x.dtype, 2, {n, g.width}};
}

inline Tensor matrix(float* data, int64_t rows, int64_t columns) { return {data, DType::f32, 2, {rows, columns}}; }

// Brings n rows of sums, padded wide, home to out [Tq, H · D].
inline void store_rows(const Geometry& g, const Task& t, const Tensor& out, int64_t row, int64_t n, const float* sums) {
  for (int64_t i = 0; i < n; i++) copy(matrix(const_cast<float*>(sums), n, g.padded), i * g.padded, out, g.query_row(t, row + i) * g.width, g.width);
}

#if defined(__AVX512F__)
// Which of the sixteen lanes from j on are in [lo, hi).
inline __mmask16 between(int64_t lo, int64_t hi, int64_t j) { return static_cast<__mmask16>(first(hi - j) & ~first(lo - j)); }

// Runs step(j, seen) over [0, n) in steps of 16: which lanes are in [lo, hi). Nearly all are whole.
template <class Step>
inline void each_lanes(int64_t lo, int64_t hi, int64_t n, const Step& step) {
  for (int64_t j = 0; j < n; j += 16) {
    if (j >= lo && j + 16 <= hi) step(j, __mmask16{0xffff});
    else step(j, between(lo, hi, j));
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
// pairs of rows, each with each, or else the same as by rows. Steps that lie together do so here too; those of a tile are a left panel then.
template <bool Pairs>
inline constexpr int64_t kRowUnits = Pairs ? kSpan / 2 : kSpan;
inline constexpr bool kArePanels = kTogether > 1;
// By rows, from one row or step of a tile to the next, as `multiply` wants it.
template <bool Pairs>
inline constexpr int64_t kRowStride = Pairs && kArePanels ? 1 : kRowUnits<Pairs>;
template <bool Pairs, int Rows>
inline constexpr int64_t kStepStride = Pairs && kArePanels ? Rows : 1;

// From one key's units to the next's, by steps.
inline int64_t key_units(Form form) { return form == Form::pairs ? kTogether : 1; }

#if !defined(__AVX512F__)
// Numbers of a span's keys into a row's units, of a tile that has so many: four keys lie together, with those of the other rows.
inline void round_row(const float* numbers, int64_t n, uint32_t* row, int64_t units) {
  for (int64_t j = 0; j < n; j += 4, row += units / (kSpan / 4)) narrow(lanes_at(numbers + j), row);
}
#endif

// Runs body with the rows of a tile of this form, as a constant.
template <class Body>
void with_rows(Form form, const Body& body) {
  if constexpr (kHasTiles) {
    if (form == Form::tiles) return body(std::integral_constant<int, kTileRows>{});
  }
  body(std::integral_constant<int, kRows>{});
}

}  // namespace lowrank::LOWRANK_ISA
