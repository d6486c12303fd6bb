// Matrix products in tile registers.
//
// A task has a group of column panels, which it packs into the second-level cache, and some rows. Rows of bf16 are mostly read as they lie,
// 32 at a time, and meet the whole group while they are in the cache. Other left factors are packed before, large ones a span of K at a
// time. Where there are many more rows than columns it is the rows' panels that stay in the cache, while those of the columns pass by.
// Products with a long K are computed by blocks of it, and their sums are kept in between. A low-rank branch is computed as in gemm.cpp:
// first h, then a few more steps behind the last ones of K.
#include "gemm.h"

#if defined(__AMX_BF16__)
#include <algorithm>
#include <vector>

#include "pack_codes.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// The K of one block, or of each of several where it is longer, and the bytes of a packed group: half of a second-level cache of 2 MiB, or
// less where the sums between blocks have to be there too.
constexpr int64_t kDepth = 2048, kSomeDepth = 1408, kPartsDepth = 768, kGroupBytes = 1 << 20, kSomeGroupBytes = 768 << 10;
// Where rows stay in the cache: the bytes of packed rows, and of the columns that they meet at a time.
constexpr int64_t kRowsBytes = 640 << 10, kColumnsBytes = 256 << 10;
// At most so many bytes of a factor are packed at once.
constexpr int64_t kAllBytes = 32 << 20;
// At most so many rows are packed at a time, and so many bytes of sums are kept between spans of K.
constexpr int64_t kRowBlock = 2048, kPartialBytes = 32 << 20;
// A task's rows are divided into parts of at least so many rows, and into at most so many parts.
constexpr int64_t kPartRows = 256, kMostParts = 8;
// Rows a multiple of so many bytes apart all lie in a thirty-second of the first-level cache; from so many columns on packing them pays.
constexpr int64_t kFewSets = 2048, kManyColumns = 1024;
constexpr int64_t kPerChunk = 2 * kChunk;
constexpr int64_t kSums = kTileRows * kColumns;

// The K of a block: blocks are of one size, and have whole blocks of codes.
int64_t depth_of(const Product& p) {
  const int64_t most = p.form == Form::parts ? kPartsDepth : p.k <= kDepth ? kDepth : kSomeDepth;
  const int64_t blocks = std::max<int64_t>(1, (p.k + most - 1) / most);
  return std::max(kAhead, round_up((p.k + blocks - 1) / blocks, kAhead));
}

// One of so many equal shares of a panel's rows, to be prefetched while other panels are multiplied.
struct Share {
  int64_t first, count;
  Share(int64_t number, int64_t shares) : first(kTileRows * number / shares), count(kTileRows * (number + 1) / shares - first) {}
};
Ahead ahead_of(const uint32_t* packed, int64_t steps, Share share) {
  return {packed + share.first * steps, share.count, kChunk, share.count * kChunk};
}

// Some rows of the left factor and of out, by panels, over a span of K.
struct Rows {
  const Product& p;
  int64_t row, rows, k, span;
  bool direct;        // whether whole panels are read where they lie
  uint32_t* packed;   // the packed panels of the span: every one, or only the last where that is not whole
  uint32_t* h;        // the panels of the branch
  float* h_sums;      // [rows in whole panels][rank in whole panels]
  float* partial;     // sums between spans, tile by tile, the panels of columns outermost

  bool first() const { return k == 0; }
  bool last() const { return k + span >= p.k; }
  int64_t panels() const { return (rows + kTileRows - 1) / kTileRows; }
  int64_t valid(int64_t i) const { return std::min<int64_t>(kTileRows, rows - i * kTileRows); }
  bool in_place(int64_t i) const { return direct && valid(i) == kTileRows; }
  int64_t steps() const { return steps_of(p.form, span); }
  int64_t tail() const { return p.branch ? steps_of(p.form, p.branch->rank) : 0; }
  uint32_t* packed_panel(int64_t i) const { return packed + (direct ? 0 : i * kTileRows * steps()); }

  // Panel i, from this element of the span's K on.
  const uint32_t* panel(int64_t i, int64_t from) const {
    if (!in_place(i)) return packed_panel(i) + kTileRows * steps_of(p.form, from);
    return reinterpret_cast<const uint32_t*>(half_at(*p.a.tensor, p.a.element(row + i * kTileRows, k + from)));
  }
  // Adds the rows of panel i, from this element of the span's K on, times a right panel to the sums in tiles.
  template <int Vectors>
  void add(int64_t i, int64_t from, const uint32_t* right, int64_t steps, Near near = Near::next_right, Ahead far = {}) const {
    constexpr Layout panels = kPanels<Vectors>;
    if (!in_place(i)) return add_panels<Vectors>(p.form, panel(i, from), right, steps, near, far);
    add_chunks<Vectors>(panel(i, from), right, steps / kChunk, {p.a.stride / 2, kChunk, panels.step}, near, far);
  }
  // What to prefetch of panel i for one share of it.
  Ahead ahead(int64_t i, int64_t from, int64_t steps, Share share) const {
    if (!in_place(i)) return ahead_of(panel(i, from), steps, share);
    return {panel(i, from) + share.first * p.a.stride / 2, share.count, p.a.stride / 2, kChunk};
  }
};

// Adds a span's part of h = x·down to the sums of a panel of rows. After the last span h is scaled and goes into its tensor and a left
// panel.
void add_branch(const Rows& r, int64_t i, const uint32_t* down, Pool& pool, int thread) {
  const Product& p = r.p;
  const Branch& branch = *p.branch;
  const int64_t row = r.row + i * kTileRows, valid = r.valid(i), stride = round_up(branch.rank, kColumns);
  float* sums = r.h_sums + i * kTileRows * stride;
  uint32_t* masked = nullptr;
  if (branch.in) {
    masked = static_cast<uint32_t*>(pool.scratch(thread, Slot::masked, kTileRows * r.steps() * 4));
    Factor f = p.a.at(row, r.k);
    f.mask = branch.in;
    pack_left_panel<kTileRows>(f, valid, r.span, p.form, masked);
  }
  const auto add = [&](auto vectors, int64_t j) {
    if (r.first()) clear_sums<vectors()>();
    else load_sums<vectors()>(sums + j, stride);
    if (masked) add_panels<vectors()>(p.form, masked, down + j * r.steps(), r.steps());
    else r.add<vectors()>(i, 0, down + j * r.steps(), r.steps());
    store_sums<vectors()>(sums + j, stride);
  };
  for (int64_t j = 0; j < branch.rank; j += kColumns) {
    if (branch.rank - j <= kLanes) add(std::integral_constant<int, 1>{}, j);
    else add(std::integral_constant<int, 2>{}, j);
  }
  if (!r.last()) return;
  const float scale = branch.in ? branch.scale * branch.mask_scale : branch.scale;
  for (int64_t j = 0; j < valid * stride; j++) sums[j] *= scale;
  for (int64_t j = 0; j < valid; j++) copy({sums, DType::f32}, j * stride, *branch.h, (row + j) * branch.rank, branch.rank);
  pack_left_panel<kTileRows>(Factor::left(*branch.h, false).at(row, 0), valid, branch.rank, p.form, r.h + i * kTileRows * r.tail());
}

// Packs the panel of the branch's `down` that begins with rank j, for `some` elements of K.
void pack_down(const Product& p, int64_t j, int64_t k, int64_t some, uint32_t* panel) {
  const int64_t left = p.branch->rank - j, width = left <= kLanes ? kLanes : kColumns;
  pack_panel(p.branch->down.at(j, k), std::min(width, left), width, some, p.form, panel);
}

// Packs those rows of a span that are not read where they lie, and computes h.
void prepare(const Rows& r, Pool& pool) {
  const Product& p = r.p;
  uint32_t* down = nullptr;
  if (p.branch) {
    const int64_t rank = p.branch->rank;
    down = static_cast<uint32_t*>(pool.scratch(0, Slot::down, (rank + kColumns) * r.steps() * 4));
    pool.each((rank + kColumns - 1) / kColumns, [&](int64_t i, int) {
      pack_down(p, i * kColumns, r.k, r.span, down + i * kColumns * r.steps());
    });
  } else if (r.direct && r.in_place(r.panels() - 1)) {
    return;
  }
  pool.ranges(r.panels(), 4, [&](int64_t begin, int64_t end, int thread) {
    const TileRegisters registers;
    for (int64_t i = begin; i < end; i++) {
      if (!r.in_place(i)) pack_left_panel<kTileRows>(p.a.at(r.row + i * kTileRows, r.k), r.valid(i), r.span, p.form, r.packed_panel(i));
      if (p.branch) add_branch(r, i, down, pool, thread);
    }
  });
}

// Whether the sums of a tile, if they begin with the addend, are the results as they are.
bool comes_home(const Product& p, int64_t rows, int64_t column) {
  const bool wide = p.out->dtype == DType::f32 && (!p.addend || p.addend->dtype == DType::f32);
  return wide && p.alpha == 1 && !(p.branch && p.branch->out) && rows == kTileRows && column + kColumns <= p.n;
}

// Turns the sums of a tile into results and stores them: times alpha, plus the addend, rounded.
void store_tile(const Product& p, int64_t row, int64_t column, int64_t rows, const float* sums) {
  const __m512 alpha = _mm512_set1_ps(p.alpha);
  if (!p.addend && p.alpha == 1 && p.out->dtype == DType::bf16 && column + kColumns <= p.n) {
    uint16_t* out = half_at(*p.out, row * p.n + column);
    for (int64_t r = 0; r < rows; r++, out += p.n, sums += kColumns)
      _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(sums + 16), _mm512_load_ps(sums)));
    return;
  }
  for (int64_t r = 0; r < rows; r++)
    for (int64_t v = 0; v < kColumns; v += 16) {
      const __mmask16 mask = first(p.n - column - v);
      const int64_t element = (row + r) * p.n + column + v;
      __m512 x = _mm512_mul_ps(_mm512_load_ps(sums + r * kColumns + v), alpha);
      if (p.addend) x = _mm512_add_ps(load_lanes(*p.addend, element, mask), x);
      store_lanes(*p.out, element, mask, x);
    }
}

// Has a tile's rows of out prefetched over so many chunks.
void ask_for_sums(const Product& p, int64_t row, int64_t column, int64_t rows, int64_t chunks, Ahead& ahead) {
  const int64_t bytes = bytes_per_element(p.out->dtype);
  ahead.row = static_cast<const char*>(p.out->data) + (row * p.n + column) * bytes;
  ahead.rows = rows;
  ahead.stride = p.n * bytes;
  ahead.some = chunks > 0 ? (rows + chunks - 1) / chunks : 0;
  ahead.two = p.out->dtype == DType::f32;
}

// The branch's part of a tile where a mask lies over it, plus the sums so far where there are some.
void masked_tail(const Rows& r, int64_t i, int64_t column, const uint32_t* up, const float* before, float* sums) {
  const Branch& branch = *r.p.branch;
  clear_sums<2>();
  add_panels<2>(r.p.form, r.h + i * kTileRows * r.tail(), up, r.tail());
  store_sums<2>(sums, kColumns);
  const __m512 scale = _mm512_set1_ps(branch.mask_scale);
  for (int64_t j = 0; j < kTileRows; j++)
    for (int64_t v = 0; v < kColumns; v += 16) {
      const bool inside = j < r.valid(i) && column + v < r.p.n;
      const auto mask = static_cast<__mmask16>(inside ? branch.out.from(r.row + i * kTileRows + j, column + v) : 0);
      float* some = sums + j * kColumns + v;
      __m512 x = _mm512_maskz_mul_ps(mask, _mm512_load_ps(some), scale);
      if (before) x = _mm512_add_ps(x, _mm512_load_ps(before + j * kColumns + v));
      _mm512_store_ps(some, x);
    }
}

// The panels [first, last) of columns.
struct Group {
  int64_t first, last;
  int64_t width() const { return last - first; }
};

// Packs a group of panels for `some` elements of K from k on and, behind the last of K, for the branch. Panels begin `stride` units apart.
void pack_group(const Product& p, Group group, int64_t k, int64_t some, uint32_t* right, int64_t stride) {
  const Codes* codes = p.b.codes;
  const bool blocks = p.form == Form::tiles && codes && !codes->wide && codes->block >= 6;
  const bool shared_scales = blocks && !p.b.lanes_are_rows && p.n % 64 == 0 && p.k % kPerChunk == 0;
  const bool along = blocks && p.b.lanes_are_rows && p.b.stride % 64 == 0 && k % 64 == 0 && some % 64 == 0;
  // Where panels lie side by side a few rows of K are packed for all of them before the next rows, which reads memory in longer pieces.
  const int64_t piece = p.b.lanes_are_rows ? some : kAhead;
  for (int64_t at = 0; at < some; at += piece)
    for (int64_t j = 0; j < group.width(); j++) {
      const int64_t column = (group.first + j) * kColumns, valid = std::min<int64_t>(kColumns, p.n - column);
      uint32_t* panel = right + j * stride + kColumns * steps_of(p.form, at);
      if (shared_scales && column % 64 == 0 && j + 1 < group.width()) {
        pack_codes(p.b.at(column, k + at), std::min(piece, some - at), panel, panel + stride);
        j++;
        continue;
      }
      if (along && valid == kColumns) pack_codes_along(p.b.at(column, k), some, panel);
      else pack_panel(p.b.at(column, k + at), valid, kColumns, std::min(piece, some - at), p.form, panel);
    }
  if (k + some < p.k || !p.branch) return;
  for (int64_t j = 0; j < group.width(); j++) {
    const int64_t column = (group.first + j) * kColumns, valid = std::min<int64_t>(kColumns, p.n - column);
    uint32_t* panel = right + j * stride + kColumns * steps_of(p.form, some);
    pack_panel(p.branch->up.at(column, 0), valid, kColumns, p.branch->rank, p.form, panel);
  }
}

// Computes the tile of panel i of rows and the panel of columns that begins with `column`, over `some` elements of K from k of the span on.
// `kept` holds its sums before and after.
void multiply_tile(const Rows& r, int64_t i, int64_t column, int64_t k, int64_t some, const uint32_t* right, float* kept, Near near,
                   Ahead far) {
  const Product& p = r.p;
  const int64_t row = r.row + i * kTileRows, rows = r.valid(i), steps = steps_of(p.form, some);
  const bool final = r.last() && k + some >= r.span, masked = final && p.branch && p.branch->out;
  const uint32_t* up = right + kColumns * steps;
  const float* before = r.first() && k == 0 ? nullptr : kept;
  alignas(64) float sums[kSums];
  if (final) ask_for_sums(p, row, column, rows, steps / kChunk, far);
  if (masked) {
    masked_tail(r, i, column, up, before, sums);
    before = sums;
  }
  const bool home = comes_home(p, rows, column);
  if (home && !before && p.addend) load_sums<2>(f32_at(*p.addend, row * p.n + column), p.n);
  else if (before) load_sums<2>(before, kColumns);
  else clear_sums<2>();
  r.add<2>(i, k, right, steps, near, far);
  if (final && p.branch && !masked) add_panels<2>(p.form, r.h + i * kTileRows * r.tail(), up, r.tail());
  if (home && final) return store_sums<2>(f32_at(*p.out, row * p.n + column), p.n);
  store_sums<2>(final ? sums : kept, kColumns);
  if (final) store_tile(p, row, column, rows, sums);
}

// Finds out which operand should be near, since that changes by the second with what the core's other thread does. Of runs that are equally
// long one goes the other way now and then. If it takes less time than the one before, the runs that follow go that way too.
class Nearness {
 public:
  template <typename Run>
  void operator()(Run run) {
    const bool trial = last_ > 0 && ++runs_ % kRuns == 0;
    const Near other = near_ == Near::next ? Near::left : Near::next, near = trial ? other : near_;
    const uint64_t start = __rdtsc();
    run(near);
    const uint64_t ticks = __rdtsc() - start;
    if (trial && ticks < last_) near_ = other;
    last_ = trial ? 0 : ticks;
  }

 private:
  static constexpr uint32_t kRuns = 32;
  static thread_local inline Near near_ = Near::next;
  static thread_local inline uint32_t runs_ = 0;
  uint64_t last_ = 0;
};

// Computes a group's columns of the rows in panels [begin, end). Where a span is one block of K this thread may have packed the group
// already.
void multiply_group(const Rows& r, Group group, int64_t begin, int64_t end, bool packed, Pool& pool, int thread) {
  const TileRegisters registers;
  const Product& p = r.p;
  const int64_t depth = depth_of(p), width = group.width(), panel_units = kColumns * (steps_of(p.form, depth) + r.tail());
  auto* right = static_cast<uint32_t*>(pool.scratch(thread, Slot::own, width * panel_units * 4));
  // The sums between spans are shared by all tasks; those between the blocks of one span belong to this task.
  const int64_t between = r.partial ? r.panels() : end - begin;
  float* partial = r.partial ? r.partial + (group.first * between + begin) * kSums : nullptr;
  if (!partial && depth < r.span)
    partial = static_cast<float*>(pool.scratch(thread, Slot::sums, width * between * kSums * sizeof(float)));
  for (int64_t k = 0; k == 0 || k < r.span; k += depth) {
    const int64_t some = std::min(depth, r.span - k);
    if (!packed) pack_group(p, group, r.k + k, some, right, panel_units);
    Nearness nearness;
    for (int64_t i = begin; i < end; i++)
      nearness([&](Near near) {
        for (int64_t j = 0; j < width; j++) {
          float* kept = partial ? partial + (j * between + i - begin) * kSums : nullptr;
          const Ahead next = i + 1 < end ? r.ahead(i + 1, k, steps_of(p.form, some), {j, width}) : Ahead{};
          multiply_tile(r, i, (group.first + j) * kColumns, k, some, right + j * panel_units, kept, near, next);
        }
      });
  }
}

// Computes a product with rows staying in the cache: all columns are packed first, then each task packs some rows.
void multiply_by_rows(const Product& p, Pool& pool) {
  const int64_t depth = depth_of(p), panels = (p.m + kTileRows - 1) / kTileRows, columns = (p.n + kColumns - 1) / kColumns;
  const int64_t rank = p.branch ? p.branch->rank : 0, tail = p.branch ? steps_of(p.form, rank) : 0, padded = round_up(rank, kColumns);
  const int64_t steps = steps_of(p.form, std::min(depth, round_up(p.k, kPerChunk))), panel_units = kColumns * (steps + tail);
  const int64_t blocks = (p.k + depth - 1) / depth;
  auto* right = static_cast<uint32_t*>(pool.scratch(0, Slot::shared, blocks * columns * panel_units * 4));
  auto* down = static_cast<uint32_t*>(pool.scratch(0, Slot::down, blocks * padded * steps * 4));
  const int64_t groups = (columns + 3) / 4;
  pool.each(blocks * groups, [&](int64_t task, int) {
    const int64_t block = task / groups, k = block * depth, i = task % groups, some = std::min(depth, p.k - k);
    const Group group{columns * i / groups, columns * (i + 1) / groups};
    pack_group(p, group, k, some, right + (block * columns + group.first) * panel_units, panel_units);
    if (i > 0) return;
    uint32_t* panels = down + block * padded * steps;
    for (int64_t j = 0; j < rank; j += kColumns) pack_down(p, j, k, some, panels + j * steps_of(p.form, some));
  });
  const int64_t panel_bytes = kTileRows * steps * 4, threads = pool.threads();
  const int64_t fit = std::max<int64_t>(1, kRowsBytes / panel_bytes), some = std::max<int64_t>(1, kColumnsBytes / panel_bytes);
  const int64_t tasks = std::min(panels, round_up((panels + fit - 1) / fit, threads));
  pool.each(tasks, [&](int64_t task, int thread) {
    const TileRegisters registers;
    const int64_t begin = panels * task / tasks, end = panels * (task + 1) / tasks, mine = end - begin, row = begin * kTileRows;
    const auto scratch = [&](Slot slot, int64_t units) { return pool.scratch(thread, slot, units * 4); };
    Rows r{.p = p, .row = row, .rows = std::min(p.m, end * kTileRows) - row, .k = 0, .span = depth, .direct = false};
    r.packed = static_cast<uint32_t*>(scratch(Slot::own, mine * kTileRows * steps));
    if (blocks > 1) r.partial = static_cast<float*>(scratch(Slot::sums, columns * mine * kSums));
    if (p.branch) {
      r.h = static_cast<uint32_t*>(scratch(Slot::branch, mine * kTileRows * tail));
      r.h_sums = static_cast<float*>(scratch(Slot::branch_sums, mine * kTileRows * padded));
    }
    for (int64_t block = 0; block < blocks; block++, r.k += depth) {
      r.span = std::min(depth, p.k - r.k);
      for (int64_t i = 0; i < mine; i++) {
        pack_left_panel<kTileRows>(p.a.at(row + i * kTileRows, r.k), r.valid(i), r.span, p.form, r.packed_panel(i));
        if (p.branch) add_branch(r, i, down + block * padded * steps, pool, thread);
      }
      for (int64_t first = 0; first < columns; first += some) {
        Nearness nearness;
        for (int64_t i = 0; i < mine; i++)
          nearness([&](Near near) {
            for (int64_t j = first; j < std::min(columns, first + some); j++) {
              float* kept = r.partial ? r.partial + (j * mine + i) * kSums : nullptr;
              const uint32_t* panel = right + (block * columns + j) * panel_units;
              const Ahead next = j + some < columns ? ahead_of(panel + some * panel_units, r.steps(), {i, mine}) : Ahead{};
              multiply_tile(r, i, j * kColumns, 0, r.span, panel, kept, near, next);
            }
          });
      }
    }
  });
}

// Whether rows that could be read where they lie are packed all the same: they would meet in few sets of the first-level cache, and often.
bool worth_packing(const Product& p) {
  return p.k * 2 > kNearBytes / kTileRows && p.a.stride * 2 % kFewSets == 0 && p.n >= kManyColumns;
}

}  // namespace

void multiply_in_tiles(const Product& p, Pool& pool) {
  const bool lies = p.form == Form::tiles && p.a.lanes_are_rows && p.a.tensor->dtype == DType::bf16 && p.k % kPerChunk == 0;
  const bool direct = lies && !worth_packing(p);
  const auto fits = [&](int64_t lanes) { return steps_of(p.form, p.k) * round_up(lanes, kColumns) * 4 <= kAllBytes; };
  if (!lies && p.m >= 2 * p.n && p.n > 0 && p.k > 0 && fits(p.n)) return multiply_by_rows(p, pool);
  const int64_t depth = depth_of(p), columns = (p.n + kColumns - 1) / kColumns;
  const int64_t span = lies || fits(std::min(p.m, kRowBlock)) ? p.k : std::min(depth, p.k);
  const bool spans = span < p.k && p.n > 0;
  const int64_t kept = std::max<int64_t>(1, kPartialBytes / std::max<int64_t>(1, columns * kSums * 4)) * kTileRows;
  const int64_t most = direct ? p.m : spans ? std::min(kRowBlock, kept) : kRowBlock;
  for (int64_t row = 0; row < p.m; row += most) {
    Rows r{.p = p, .row = row, .rows = std::min(most, p.m - row), .k = 0, .span = span, .direct = direct};
    const int64_t panels = r.panels(), rank = p.branch ? round_up(p.branch->rank, kColumns) : 0;
    if (!r.in_place(0) || !r.in_place(panels - 1))
      r.packed = static_cast<uint32_t*>(pool.scratch(0, Slot::shared, (direct ? 1 : panels) * kTileRows * r.steps() * 4));
    if (spans) r.partial = static_cast<float*>(pool.scratch(0, Slot::sums, columns * panels * kSums * sizeof(float)));
    if (p.branch) {
      r.h = static_cast<uint32_t*>(pool.scratch(0, Slot::branch, panels * kTileRows * r.tail() * 4));
      r.h_sums = static_cast<float*>(pool.scratch(0, Slot::branch_sums, panels * kTileRows * rank * sizeof(float)));
    }
    // There are as many groups as it takes for each to fit the cache, and at least one for each thread.
    const int64_t threads = pool.threads(), bytes = depth < span ? kSomeGroupBytes : kGroupBytes;
    const int64_t fit = std::max<int64_t>(1, bytes / (steps_of(p.form, std::min(p.k + kPerChunk, depth)) * kColumns * 4));
    const int64_t groups = std::min(columns, round_up((columns + fit - 1) / fit, threads));
    // The rows are divided into parts so that one thread can help another, or has something to do where there are few columns. A thread
    // packs a group once for all of its parts.
    const bool whole = depth >= std::min(span, p.k);
    const int64_t few = (2 * threads + groups - 1) / std::max<int64_t>(1, groups);
    const int64_t some = std::clamp<int64_t>(r.rows / kPartRows, 1, kMostParts);
    const int64_t parts = std::min(panels, groups < threads ? few : whole ? some : 1);
    do {
      r.span = std::min(span, p.k - r.k);
      prepare(r, pool);
      std::vector<int64_t> packed(threads, -1);
      pool.each(groups * parts, [&](int64_t task, int thread) {
        const int64_t i = task / parts, part = task % parts;
        const Group group{columns * i / groups, columns * (i + 1) / groups};
        multiply_group(r, group, panels * part / parts, panels * (part + 1) / parts, whole && packed[thread] == i, pool, thread);
        packed[thread] = i;
      });
      r.k += r.span;
    } while (r.k < p.k);
  }
}

}  // namespace lowrank::LOWRANK_ISA
#endif
