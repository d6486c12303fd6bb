// What attention and its gradient share. Packed keys and values meet tiles of query rows, kTileRows of them where products run in tile
// registers and kRows elsewhere.
//
// The query heads that read one key/value head are treated as rows beside each other: row r of a (segment, group) is query r / shared and
// head group · shared + r % shared. Keys and values are packed once per call, in spans of kSpan keys, and are shared by the threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "panel_product.h"

namespace lowrank::LOWRANK_ISA {

// The keys of a span, and in the backward pass the rows of a block: a multiple of the sides of a tile on every instruction set.
inline constexpr int64_t kSpan = 96;
static_assert(kSpan % kRows == 0 && kSpan % kColumns == 0 && kSpan % kTileRows == 0);

struct Segment {
  int64_t query, queries, key, keys;
  int64_t span;  // the number of its first span among the packed keys

  // A query of the segment sees its keys [first_key, last_key).
  int64_t last_key(int64_t i) const { return keys - queries + i + 1; }
  int64_t first_key(int64_t i, int64_t window) const { return window > 0 ? std::max<int64_t>(0, last_key(i) - window) : 0; }
};

// A run of rows of one segment and group.
struct Task {
  const Segment* segment;
  int64_t group, begin, end;
  float *dk, *dv;  // in the backward pass its own sums over its rows, [keys in whole spans][padded]
};

struct Geometry {
  int64_t heads, groups, shared;
  int64_t width, padded;  // the width of a head, and the same in whole panels
  float scale;
  int64_t window;
  float softcap;       // 0 for none
  const float* sinks;  // [heads], or nullptr
  Form form;
  std::vector<Segment> segments;
  int64_t spans = 0;

  // `attributes` are those of either direction.
  template <class Attributes>
  Geometry(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const Tensor& sink, const Attributes& attributes) {
    expect_floats(q, k, v);
    width = attributes.head_dim;
    expect(q.rank == 2 && k.rank == 2 && width > 0 && q.shape[1] % width == 0 && k.shape[1] % width == 0, "q and k of whole heads");
    expect(same_shape(k, v), "k and v of one shape");
    heads = q.shape[1] / width;
    groups = k.shape[1] / width;
    expect(groups > 0 && heads % groups == 0, "as many query heads per key/value head");
    shared = heads / groups;
    padded = round_up(width, kColumns);
    scale = static_cast<float>(attributes.scale);
    window = attributes.window;
    softcap = static_cast<float>(attributes.softcap);
    if (sink) expect_vector(sink, DType::f32, heads, "sinks [H] f32");
    sinks = sink ? f32_at(sink, 0) : nullptr;
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
  // The number that a row has among the rows [Tq · H] of q.
  int64_t query_row(const Task& t, int64_t row) const {
    return (t.segment->query + row / shared) * heads + t.group * shared + row % shared;
  }
};

// Cuts a block of scratch memory into pieces, each of which begins with a cache line of its own.
struct Carver {
  char* next;
  template <class T>
  T* take(int64_t n) {
    T* piece = reinterpret_cast<T*>(next);
    next += round_up(n * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }
};

// The packed keys or values of all spans and groups. With `lanes` they are panels of kColumns keys over the width of a head, without it
// panels of kColumns numbers of that width over the keys of a span.
struct Packed {
  const Geometry& g;
  uint32_t* units;
  bool lanes;

  static int64_t size(const Geometry& g, bool lanes) {
    return g.spans * g.groups * (lanes ? kSpan * g.steps() : g.padded * g.span_steps());
  }
  uint32_t* at(int64_t span, int64_t group) const {
    return units + (span * g.groups + group) * (lanes ? kSpan * g.steps() : g.padded * g.span_steps());
  }
  // The panel that begins with this key of the segment.
  const uint32_t* keys(const Task& t, int64_t key) const {
    return at(t.segment->span + key / kSpan, t.group) + key % kSpan * g.steps();
  }
  // The panel of the numbers from `column` on, for the span that has this key.
  const uint32_t* columns(const Task& t, int64_t key, int64_t column) const {
    return at(t.segment->span + key / kSpan, t.group) + column * g.span_steps();
  }

  void pack(const Tensor& t, const Segment& s, int64_t key, int64_t group) const {
    const int64_t stride = g.groups * g.width, n = std::min(kSpan, s.keys - key);
    uint32_t* out = at(s.span + key / kSpan, group);
    if (lanes) {
      for (int64_t i = 0; i < n; i += kColumns) {
        const Factor f{&t, true, stride, s.key + key + i, group * g.width};
        pack_panel(f, std::min<int64_t>(kColumns, n - i), kColumns, g.width, g.form, out + i * g.steps());
      }
    } else {
      for (int64_t d = 0; d < g.width; d += kColumns) {
        const Factor f{&t, false, stride, group * g.width + d, s.key + key};
        pack_panel(f, std::min<int64_t>(kColumns, g.width - d), kColumns, n, g.form, out + d * g.span_steps());
      }
    }
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

// Gathers the rows [row, row + n) of a task from x [Tq, H · D] into memory, one after the other, in x's dtype.
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

// Stores n rows of sums, each of the padded width, in out [Tq, H · D].
inline void store_rows(const Geometry& g, const Task& t, const Tensor& out, int64_t row, int64_t n, const float* sums) {
  const Tensor rows = matrix(const_cast<float*>(sums), n, g.padded);
  for (int64_t i = 0; i < n; i++) copy(rows, i * g.padded, out, g.query_row(t, row + i) * g.width, g.width);
}

#if defined(__AVX512F__)
// Which of the sixteen lanes from j on are in [lo, hi).
inline __mmask16 between(int64_t lo, int64_t hi, int64_t j) { return static_cast<__mmask16>(first(hi - j) & ~first(lo - j)); }

// Runs step(j, seen) over [0, n) in steps of 16, where `seen` says which lanes are in [lo, hi): nearly always all of them.
template <class Step>
inline void each_lanes(int64_t lo, int64_t hi, int64_t n, const Step& step) {
  for (int64_t j = 0; j < n; j += 16) {
    if (j >= lo && j + 16 <= hi) step(j, __mmask16{0xffff});
    else step(j, between(lo, hi, j));
  }
}

// A number as a factor of this form holds it, where the form is not pairs.
inline __m512 as_factor(Form form, __m512 x) {
  return form == Form::exact ? x : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(round_lanes(x)), 16));
}
#endif

inline float as_factor(Form form, float x) { return form == Form::exact ? x : from_bf16(to_bf16(x)); }

// The weights of attention are the left factor of products, which read them where they were written, a span at a time. They lie in one of
// two ways. By rows: unit (row, step along the keys), rows of kSpan keys, which are of bf16 where products are of pairs and of f32
// elsewhere. By steps: unit (key, step along the rows), steps of kSpan keys, where a unit is a pair of rows, or one number as by rows.
// Where two steps of pairs lie together they do so here too, and those of a tile are a left panel then.
template <bool Pairs>
inline constexpr int64_t kRowUnits = Pairs ? kSpan / 2 : kSpan;
inline constexpr bool kArePanels = kTogether > 1;
// How far it is by rows from one row, or one step, of a tile to the next, as `multiply` wants to know.
template <bool Pairs>
inline constexpr int64_t kRowStride = Pairs && kArePanels ? 1 : kRowUnits<Pairs>;
template <bool Pairs, int Rows>
inline constexpr int64_t kStepStride = Pairs && kArePanels ? Rows : 1;

// How far it is by steps from the units of one key to those of the next.
inline int64_t key_units(Form form) { return form == Form::pairs ? kTogether : 1; }

#if !defined(__AVX512F__)
// Puts the numbers of a span's keys into the units of one row, of a tile that has so many. Four keys lie together, beside those of other
// rows.
inline void round_row(const float* numbers, int64_t n, uint32_t* row, int64_t units) {
  for (int64_t j = 0; j < n; j += 4, row += units / (kSpan / 4)) narrow(lanes_at(numbers + j), row);
}
#endif

// Calls body with the number of rows of a tile of this form, as a constant.
template <class Body>
void with_rows(Form form, const Body& body) {
  if constexpr (kHasTiles) {
    if (form == Form::tiles) return body(std::integral_constant<int, kTileRows>{});
  }
  body(std::integral_constant<int, kRows>{});
}

}  // namespace lowrank::LOWRANK_ISA
