// Matrix products with the vectors of one instruction set, with or without a low-rank branch.
//
// A block of up to 2048 rows and kDepth steps of K of the left factor is packed once, in panels. Each panel of the right factor is packed
// by the thread that uses it. It then meets the left panels, all of them or, where there are many rows, those of the thread's own rows, and
// stays in the second-level cache while those stream by (two bytes per cycle). Meanwhile the lines of the next panel are prefetched,
// because no hardware prefetcher finds them where they lie in different rows. The sums of a tile stay in registers, and in scratch memory
// between blocks of K. No result depends on the number of threads.
//
// A low-rank branch out = x·op(W) + h·up, h = scale·x·down, costs no more than its own work: a panel of x meets `down` while it is in the
// cache, and h stands behind it as a few more steps of K, for which a panel of `up` stands behind that of W.
#include <algorithm>

#include "gemm.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// The rows and the steps of K of a block: its panels then take at most 16 MiB, and a panel of the right factor stays in the first- or
// second-level cache. Where the sums between blocks would be more than kPartial numbers, blocks are as deep as kDeep.
constexpr int64_t kRowBlock = 2048, kDeep = 2048, kDepth = kLanes < 16 ? 384 : kHasPairs ? kDeep : 1024;
// Each thread has rows of its own where there are at least kOwnRows for it, if all the copies of the right factor that the other threads
// then pack have at most kOwnColumns columns for each row.
constexpr int64_t kOwnRows = 128, kOwnColumns = 2;
constexpr int64_t kPartial = int64_t{1} << 22;

// Turns one vector of sums into results and stores them: times alpha, plus the addend, rounded.
template <class Some>
inline void store_vector(const Product& p, int64_t element, Some some, Lanes sums) {
  Lanes x = sums * p.alpha;
  if (p.addend) x = (Lanes)load_lanes(*p.addend, element, some) + x;
  store_lanes(*p.out, element, some, x);
}

#if !defined(__AVX512F__)
// The same for a part of a tile whose sums lie in memory, in rows of `width`.
[[gnu::noinline]] void store_part(const Product& p, int64_t row, int64_t column, int64_t rows, int64_t columns, const float* sums,
                                  int64_t width) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < columns; i += kLanes)
      store_vector(p, (row + r) * p.n + column + i, first(columns - i), lanes_at(sums + r * width + i));
}
#endif

// Stores the results of the first `rows` rows of a tile's sums. It is inlined because the sums would otherwise go through memory. They do
// where only a part of the tile is wanted: storing some lanes of a vector is a call there, and no register of sums outlives a call.
template <int Rows, int Vectors>
[[gnu::always_inline]] inline void store_tile(const Product& p, int64_t row, int64_t column, int64_t rows, int64_t columns,
                                              const Lanes (&sums)[Rows][Vectors]) {
#if !defined(__AVX512F__)
  constexpr int64_t width = Vectors * kLanes;
  if (rows < Rows || columns < width) {
    float memory[Rows * width];
    keep_sums(memory, width, sums);
    return store_part(p, row, column, rows, columns, memory, width);
  }
  columns = width;
#endif
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) {
    if (kLanes == 16 && r >= rows) return;
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++)
      store_vector(p, (row + r) * p.n + column + v * kLanes, first(columns - v * kLanes), sums[r][v]);
  }
}

// Some rows and a block of K of a product: what their panels share.
struct Block {
  int64_t row, rows;           // the first row of the left factor and of out, and how many there are
  int64_t k, depth;            // where the block begins in K, and how much of K it is
  bool first, last;            // whether it is the first or the last of the blocks of K
  int64_t steps, tail;         // the steps of a left panel, and those of the branch behind the last block
  int64_t panels;
  uint32_t* left;              // the packed left panels
  float* partial;              // sums between blocks, tile by tile, the panels of columns outermost

  int64_t valid(int64_t panel, int64_t height) const { return std::min(height, rows - panel * height); }
};

// The branch's part of a tile where a mask lies over it: sums [Rows][width], plus those of `before` where that is given.
template <int Rows, int Vectors>
void masked_tail(const Product& p, const uint32_t* a, const uint32_t* b, int64_t steps, int64_t row, int64_t column, const float* before,
                 float* __restrict sums) {
  constexpr int width = Vectors * kLanes;
  const Branch& branch = *p.branch;
  tile<false, Rows, Vectors>(p.form, a, b, steps, sums, width);
  for (int r = 0; r < Rows; r++) {
    for (int v = 0; v < width; v += kLanes) {
      const bool inside = row + r < p.m && column + v < p.n;
      const uint32_t bits = inside ? branch.out.from(row + r, column + v) : 0;
      float* some = sums + r * width + v;
#pragma omp simd
      for (int i = 0; i < kLanes; i++) some[i] = bits >> i & 1 ? some[i] * branch.mask_scale : 0.f;
    }
  }
  if (before)
    for (int i = 0; i < Rows * width; i++) sums[i] += before[i];
}

// Computes the sums of a tile over some steps, beginning with what `before` holds or else with zero. They go to `kept` as they are or,
// without it, to out as results.
template <bool Pairs, bool Resumed, int Rows, int Vectors>
LOWRANK_TILE void multiply_steps(const Product& p, const uint32_t* a, const uint32_t* b, int64_t steps, const float* before, float* kept,
                                 int64_t row, int64_t rows, int64_t column) {
  constexpr int64_t width = Vectors * kLanes;
  Lanes sums[Rows][Vectors];
  begin_sums<Resumed>(before, width, sums);
  multiply<Pairs, Rows, Vectors>(a, b, steps, sums);
  if (!kept) return store_tile<Rows, Vectors>(p, row, column, rows, std::min(width, p.n - column), sums);
  keep_sums(kept, width, sums);
}

// Computes one tile, of panel i of the left factor and a packed panel of the right one. Both have the branch's steps behind their own, so
// that the two products are one loop.
template <bool Pairs, int Rows, int Vectors>
inline void multiply_tile(const Product& p, const Block& block, int64_t i, const uint32_t* right, int64_t column) {
  constexpr int64_t width = Vectors * kLanes;
  const uint32_t* a = block.left + i * Rows * (block.steps + block.tail);
  const int64_t row = block.row + i * Rows, rows = block.valid(i, Rows), steps = block.steps + block.tail;
  if (block.first && block.last && !(p.branch && p.branch->out))
    return multiply_steps<Pairs, false, Rows, Vectors>(p, a, right, steps, nullptr, nullptr, row, rows, column);
  float* partial = block.partial + (column / width * block.panels + i) * Rows * width;
  const float* before = block.first ? nullptr : partial;
  float* kept = block.last ? nullptr : partial;
  if (block.tail > 0 && p.branch->out) {
    alignas(64) float masked[Rows * width];
    masked_tail<Rows, Vectors>(p, a + Rows * block.steps, right + width * block.steps, block.tail, row, column, before, masked);
    multiply_steps<Pairs, true, Rows, Vectors>(p, a, right, block.steps, masked, kept, row, rows, column);
  } else if (before) {
    multiply_steps<Pairs, true, Rows, Vectors>(p, a, right, steps, before, kept, row, rows, column);
  } else {
    multiply_steps<Pairs, false, Rows, Vectors>(p, a, right, steps, nullptr, kept, row, rows, column);
  }
}

// Adds a packed panel's part of h to its sums [Rows][rank in whole panels] and, after the last block, puts the steps of h behind those of
// the panel. `down` is packed in panels of kColumns, of which the last may have kLanes.
template <int Rows>
void add_branch(const Product& p, const Block& block, int64_t i, const uint32_t* down, float* sums, Pool& pool, int thread) {
  const Branch& branch = *p.branch;
  const int64_t row = block.row + i * Rows, valid = block.valid(i, Rows), stride = (branch.rank + kColumns - 1) / kColumns * kColumns;
  uint32_t* panel = block.left + i * Rows * (block.steps + block.tail);
  const uint32_t* x = panel;
  if (branch.in) {
    auto* masked = static_cast<uint32_t*>(pool.scratch(thread, Slot::masked, Rows * block.steps * 4));
    Factor f = p.a.at(row, block.k);
    f.mask = branch.in;
    pack_panel(f, valid, Rows, block.depth, p.form, masked);
    x = masked;
  }
  sums += i * Rows * stride;
  if (block.first) std::fill_n(sums, Rows * stride, 0.f);
  for (int64_t j = 0; j < branch.rank; j += kColumns) {
    if (branch.rank - j <= kLanes) tile<true, Rows, 1>(p.form, x, down + j * block.steps, block.steps, sums + j, stride);
    else tile<true, Rows, 2>(p.form, x, down + j * block.steps, block.steps, sums + j, stride);
  }
  if (!block.last) return;
  const float scale = branch.in ? branch.scale * branch.mask_scale : branch.scale;
  for (int64_t j = 0; j < Rows * stride; j++) sums[j] *= scale;
  for (int64_t r = 0; r < valid; r++) copy({sums, DType::f32}, r * stride, *branch.h, (row + r) * branch.rank, branch.rank);
  pack_panel(Factor::left(*branch.h, false).at(row, 0), valid, Rows, branch.rank, p.form, panel + Rows * block.steps);
}

// Packs a block of the left factor for all threads, and computes the branch's steps behind it.
template <int Rows>
void pack_left(const Product& p, const Block& block, Pool& pool) {
  uint32_t* down = nullptr;
  float* sums = nullptr;
  if (p.branch) {
    const int64_t rank = p.branch->rank, padded = rank + kColumns;
    down = static_cast<uint32_t*>(pool.scratch(0, Slot::down, padded * block.steps * 4));
    sums = static_cast<float*>(pool.scratch(0, Slot::branch_sums, block.panels * Rows * padded * sizeof(float)));
    pool.each((rank + kColumns - 1) / kColumns, [&](int64_t i, int) {
      const int64_t j = i * kColumns, width = rank - j <= kLanes ? kLanes : kColumns;
      pack_panel(p.branch->down.at(j, block.k), std::min<int64_t>(width, rank - j), width, block.depth, p.form, down + j * block.steps);
    });
  }
  const int64_t stride = Rows * (block.steps + block.tail);
  // The columns of a row-major matrix are packed a few rows at a time, for all panels of a piece before the next rows.
  const int64_t some = p.a.lanes_are_rows ? block.depth : 64;
  const auto pack = [&](int64_t begin, int64_t end) {
#if defined(__AVX512F__)
    const bool columns = !p.a.lanes_are_rows && p.form == Form::pairs && p.a.tensor->dtype == DType::bf16;
    if (Rows == 12 && columns && end - begin == 8 && block.valid(end - 1, Rows) == Rows)
      return pack_eight(p.a.at(block.row + begin * Rows, block.k), block.depth, block.left + begin * stride, stride);
#endif
    for (int64_t k = 0; k < block.depth; k += some)
      for (int64_t i = begin; i < end; i++)
        pack_panel(p.a.at(block.row + i * Rows, block.k + k), block.valid(i, Rows), Rows, std::min(some, block.depth - k), p.form,
                   block.left + i * stride + Rows * steps_of(p.form, k));
  };
  pool.ranges(block.panels, 8, [&](int64_t begin, int64_t end, int thread) {
    pack(begin, end);
    if (p.branch)
      for (int64_t i = begin; i < end; i++) add_branch<Rows>(p, block, i, down, sums, pool, thread);
  });
}

// Computes all columns of one block of K.
template <bool Pairs, int Rows, int Vectors>
void multiply_block(const Product& p, const Block& block, Pool& pool) {
  constexpr int64_t width = Vectors * kLanes;
  const int64_t columns = (p.n + width - 1) / width;
  if (columns == 0) return;
  // Each thread has rows of its own, which it has packed itself, if that saves more than it costs to pack the right factor once for each
  // thread. Where the right factor has few panels the rows are divided further, so that there is enough to share out.
  const int64_t wanted = 4 * pool.threads();
  const bool copies = p.n * (pool.threads() - 1) <= kOwnColumns * block.rows;
  const int64_t own = copies ? std::min<int64_t>(pool.threads(), block.rows / kOwnRows) : 1;
  const int64_t parts = std::min(block.panels, std::max<int64_t>({1, own, (wanted + columns - 1) / columns}));
  pool.each(columns * parts, [&](int64_t task, int thread) {
    const int64_t column = task % columns * width, part = task / columns, valid = std::min(width, p.n - column);
    const int64_t begin = block.panels * part / parts, end = block.panels * (part + 1) / parts;
    auto* right = static_cast<uint32_t*>(pool.scratch(thread, Slot::own, width * (block.steps + block.tail) * 4));
    pack_panel(p.b.at(column, block.k), valid, width, block.depth, p.form, right);
    if (block.tail > 0) pack_panel(p.branch->up.at(column, 0), valid, width, p.branch->rank, p.form, right + width * block.steps);
    const int64_t next = column + width, next_columns = p.b.lanes_are_rows ? 0 : std::clamp<int64_t>(p.n - next, 0, width);
    for (int64_t i = begin; i < end; i++) {
      const int64_t done = i - begin, all = end - begin;
      if (next_columns > 0) prefetch_rows(p.b.at(next, block.k), block.depth * done / all, block.depth * (done + 1) / all, next_columns);
      multiply_tile<Pairs, Rows, Vectors>(p, block, i, right, column);
    }
  });
}

// Computes the whole product with tiles of Rows × Vectors · kLanes.
template <int Rows, int Vectors>
void multiply_tiles(const Product& p, Pool& pool) {
  constexpr int64_t width = Vectors * kLanes;
  const int64_t per_step = p.form == Form::pairs ? 2 : 1, padded = round_up(p.n, width);
  const int64_t depth = (std::min(p.m, kRowBlock) * padded <= kPartial ? kDepth : kDeep) * per_step;
  const bool split = p.k > depth && p.n > 0;
  const int64_t most = split ? std::clamp(kPartial / padded / Rows * Rows, int64_t{Rows}, kRowBlock) : kRowBlock;
  for (int64_t row = 0; row < p.m; row += most) {
    Block block{.row = row, .rows = std::min(most, p.m - row), .k = 0};
    block.panels = (block.rows + Rows - 1) / Rows;
    block.partial = split ? static_cast<float*>(pool.scratch(0, Slot::sums, block.panels * Rows * padded * sizeof(float))) : nullptr;
    do {
      block.depth = std::min(depth, p.k - block.k);
      block.first = block.k == 0;
      block.last = block.k + block.depth == p.k;
      block.steps = steps_of(p.form, block.depth);
      block.tail = p.branch && block.last ? steps_of(p.form, p.branch->rank) : 0;
      block.left = static_cast<uint32_t*>(pool.scratch(0, Slot::shared, block.panels * Rows * (block.steps + block.tail) * 4));
      pack_left<Rows>(p, block, pool);
      if (kHasPairs && p.form == Form::pairs) multiply_block<kHasPairs, Rows, Vectors>(p, block, pool);
      else multiply_block<false, Rows, Vectors>(p, block, pool);
      block.k += block.depth;
    } while (!block.last);
  }
}

template <int Vectors>
void multiply_columns(const Product& p, Pool& pool) {
#if defined(__AVX512F__) || defined(__aarch64__)
  const auto padded = [&](int64_t rows) { return (p.m + rows - 1) / rows * rows; };
  if (p.m <= 4) return multiply_tiles<4, Vectors>(p, pool);
  if (padded(8) < padded(12) && p.m < 96) return multiply_tiles<8, Vectors>(p, pool);
#endif
  multiply_tiles<kRows, Vectors>(p, pool);
}

}  // namespace

void multiply_product(const Product& p, Pool& pool) {
  if (p.m == 0 || (p.n == 0 && !p.branch)) return;
  if (p.m <= kFewRows && p.a.lanes_are_rows && p.b.lanes_are_rows && !(p.branch && p.branch->in)) return multiply_few_rows(p, pool);
#if defined(__AMX_BF16__)
  if (in_tiles(p.form)) return multiply_in_tiles(p, pool);
#endif
  if (p.n <= kLanes) multiply_columns<1>(p, pool);
  else multiply_columns<2>(p, pool);
}

}  // namespace lowrank::LOWRANK_ISA
