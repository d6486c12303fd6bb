// Matrix products of bf16 in the processor's tile registers (Intel SDM, volume 1, chapter 18: AMX). There are eight registers of 16 rows of
// 64 bytes. One instruction multiplies 16 rows of sixteen pairs along K by sixteen pairs of rows of sixteen columns and adds the product to
// 16 × 16 sums of f32.
//
// A left panel has the rows of one or two tiles. It lies by chunks of kChunk units along K, and row by row in each of them: unit (row,
// step) of a chunk is chunk[row · kChunk + step]. A right panel lies as everywhere: units[step · columns + column]. Both are filled up with
// zeros to whole chunks.
//
// A number of f32 is exactly the sum of three of bf16, as its 24 bits are three times eight. A product of two numbers has nine products of
// their parts; the six largest make up the whole to about as much as f32 rounds it. A panel of such numbers has each of its chunks three
// times, first with all first parts, then all second, then all third. Numbers below 2⁻¹¹⁰ lose bits, and infinity becomes NaN, since what
// is left of it beside its first part is NaN. Tiles add 32 products before they round them to the sum so far, which makes such sums more
// accurate than those of f32 one by one.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace lowrank::LOWRANK_ISA {

// The steps of a chunk, the rows of a tile, and the rows of a product where nothing else is said: those of two tiles.
inline constexpr int kChunk = 16, kTile = 16, kTileRows = 2 * kTile;
// The parts of a number of f32, and how many products of two numbers' parts are computed.
inline constexpr int kParts = 3, kPartProducts = 6;

#if defined(__AMX_BF16__)
inline constexpr bool kHasTiles = true;

// Assembler, because the compiler's functions do not tell it that these instructions access memory. A tile that is read once does not
// displace others in the first-level cache.
template <int Tile, bool Once = false>
inline void load_tile(const void* rows, int64_t bytes) {
  if constexpr (Once) asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(bytes), "i"(Tile) : "memory");
  else asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(bytes), "i"(Tile) : "memory");
}
template <int Tile>
inline void store_tile(void* rows, int64_t bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(bytes), "i"(Tile) : "memory");
}
template <int Tile>
inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}
// Tile Sums += tile Left · tile Right.
template <int Sums, int Left, int Right>
inline void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Left), "i"(Right));
}

// Gives this thread all eight tiles, 16 × 64 bytes each, while it lives.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  ~TileRegisters() { asm volatile("tilerelease" : : : "memory"); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// These set a block of Rows × Vectors · 16 sums in tiles from memory or to zero, and put it into memory. Rows there are `stride` numbers
// apart.
template <int Vectors, int Rows = kTileRows>
inline void load_sums(const float* from, int64_t stride) {
  load_tile<0>(from, stride * 4);
  if constexpr (Vectors == 2) load_tile<1>(from + 16, stride * 4);
  if constexpr (Rows == kTile) return;
  load_tile<2>(from + 16 * stride, stride * 4);
  if constexpr (Vectors == 2) load_tile<3>(from + 16 * stride + 16, stride * 4);
}

template <int Vectors, int Rows = kTileRows>
inline void clear_sums() {
  clear_tile<0>();
  if constexpr (Vectors == 2) clear_tile<1>();
  if constexpr (Rows == kTile) return;
  clear_tile<2>();
  if constexpr (Vectors == 2) clear_tile<3>();
}

template <int Vectors, int Rows = kTileRows>
inline void store_sums(float* to, int64_t stride) {
  store_tile<0>(to, stride * 4);
  if constexpr (Vectors == 2) store_tile<1>(to + 16, stride * 4);
  if constexpr (Rows == kTile) return;
  store_tile<2>(to + 16 * stride, stride * 4);
  if constexpr (Vectors == 2) store_tile<3>(to + 16 * stride + 16, stride * 4);
}

// How operands lie: the units from row to row and from chunk to chunk of the left one, and from step to step of the right one.
struct Layout {
  int64_t row, chunk, step;
};
// How packed panels lie.
template <int Vectors, int Rows = kTileRows>
inline constexpr Layout kPanels{kChunk, Rows * kChunk, Vectors * 16};

// What a loop keeps in the first-level cache. `next_right` and `next` prefetch the next chunk of the right operand or of both: where two
// threads share a core, each has half of the instructions in flight, so that the second-level cache is far, and this makes the loop 1.3 to
// 1.5 times as fast. `left` keeps the first chunks of the left operand for all the right ones that follow each other, while all else passes
// by: that is 1.1 to 1.4 times as fast on a core of its own.
enum class Near { next_right, next, left };
// How many bytes of a left panel stay in the first-level cache then.
constexpr int64_t kNearBytes = 40 << 10;

// Prefetches so many lines, `step` units apart. (Where a function that only prefetches is not inlined at once, the compiler finds that it
// does nothing.)
template <int Lines>
[[gnu::always_inline]] inline void prefetch_lines(const uint32_t* lines, int64_t step = 16) {
#pragma GCC unroll 32
  for (int i = 0; i < Lines; i++) __builtin_prefetch(lines + i * step, 0, 3);
}

// Lines to be prefetched on the way, a few with each chunk, since many at once hold the tiles up.
struct Ahead {
  // Lines that will be read, for the second-level cache: with each chunk `count` of them, `step` units apart, and `chunk` units further on.
  const uint32_t* lines = nullptr;
  int64_t count = 0, step = 0, chunk = 0;
  // Rows that will be written, for the first-level cache: rows of one line or two, `stride` bytes apart, with each chunk `some` of them.
  const char* row = nullptr;
  int64_t rows = 0, stride = 0, some = 0;
  bool two = false;

  // Prefetches what belongs to the next chunk.
  [[gnu::always_inline]] void ask() {
    for (int64_t line = 0; line < count; line++) __builtin_prefetch(lines + line * step, 0, 2);
    lines += chunk;
    for (int64_t i = 0; i < some && rows > 0; i++, rows--, row += stride) {
      __builtin_prefetch(row, 1);
      if (two) __builtin_prefetch(row + 64, 1);
    }
  }
};

// Adds left · right over so many chunks to the sums. With LeftOnce the tiles of the left operand are read this once.
template <int Vectors, int Rows, Near Kept, bool LeftOnce>
inline void add_chunks(const uint32_t* left, const uint32_t* right, int64_t chunks, Layout layout, Ahead& far) {
  constexpr bool both = Rows == kTileRows, once = Kept == Near::left;
  for (int64_t i = 0; i < chunks; i++, left += layout.chunk, right += kChunk * layout.step) {
    far.ask();
    const auto ahead = [&](int part) __attribute__((always_inline)) {
      if (Kept == Near::next && part * 8 < Rows) prefetch_lines<8>(left + layout.chunk + part * 8 * layout.row, layout.row);
      if (Kept != Near::left && part < 2 * Vectors) prefetch_lines<8>(right + kChunk * layout.step + part * 128);
    };
    load_tile<4, LeftOnce>(left, layout.row * 4);
    load_tile<6, once>(right, layout.step * 4);
    if constexpr (both) load_tile<5, LeftOnce>(left + 16 * layout.row, layout.row * 4);
    add_product<0, 4, 6>();
    ahead(0);
    if constexpr (both) add_product<2, 5, 6>();
    ahead(1);
    if constexpr (Vectors == 2) {
      load_tile<7, once>(right + 16, layout.step * 4);
      add_product<1, 4, 7>();
      ahead(2);
      if constexpr (both) add_product<3, 5, 7>();
      ahead(3);
    }
  }
}

template <int Vectors, int Rows = kTileRows>
inline void add_chunks(const uint32_t* left, const uint32_t* right, int64_t chunks, Layout layout = kPanels<Vectors, Rows>,
                       Near near = Near::next_right, Ahead far = {}) {
  if (near == Near::next_right) return add_chunks<Vectors, Rows, Near::next_right, false>(left, right, chunks, layout, far);
  if (near == Near::next) return add_chunks<Vectors, Rows, Near::next, false>(left, right, chunks, layout, far);
  const int64_t kept = std::min<int64_t>(chunks, kNearBytes / (Rows * kChunk * 4));
  add_chunks<Vectors, Rows, Near::left, false>(left, right, kept, layout, far);
  add_chunks<Vectors, Rows, Near::left, true>(left + kept * layout.chunk, right + kept * kChunk * layout.step, chunks - kept, layout, far);
}

// The same for packed panels in parts. The small products come first, and from one product to the next one of the two factors changes. The
// next chunk is prefetched a few lines at a time, because tiles wait behind 32 in a row where two threads share a core.
template <int Vectors>
inline void add_parts(const uint32_t* left, const uint32_t* right, int64_t chunks, Ahead far = {}) {
  constexpr int step = Vectors * 16, left_units = kTileRows * kChunk, right_units = kChunk * step;
  const auto rows = [&](int part) __attribute__((always_inline)) {
    load_tile<4>(left + part * left_units, kChunk * 4);
    load_tile<5>(left + part * left_units + 16 * kChunk, kChunk * 4);
  };
  const auto columns = [&](int part) __attribute__((always_inline)) {
    load_tile<6>(right + part * right_units, step * 4);
    if constexpr (Vectors == 2) load_tile<7>(right + part * right_units + 16, step * 4);
  };
  const auto add = [](auto units, const uint32_t* next) __attribute__((always_inline)) {
    constexpr int lines = units() / (2 * Vectors) / 16;
    add_product<0, 4, 6>();
    prefetch_lines<lines>(next);
    add_product<2, 5, 6>();
    prefetch_lines<lines>(next + lines * 16);
    if constexpr (Vectors == 2) {
      add_product<1, 4, 7>();
      prefetch_lines<lines>(next + lines * 32);
      add_product<3, 5, 7>();
      prefetch_lines<lines>(next + lines * 48);
    }
  };
  const auto add_rows = [&](int part) __attribute__((always_inline)) {
    add(std::integral_constant<int, left_units>{}, left + (kParts + part) * left_units);
  };
  const auto add_columns = [&](int part) __attribute__((always_inline)) {
    add(std::integral_constant<int, right_units>{}, right + (kParts + part) * right_units);
    far.ask();
  };
  for (int64_t i = 0; i < chunks; i++, left += kParts * left_units, right += kParts * right_units) {
    rows(2), columns(0), add_rows(2);
    rows(0), add_rows(0);
    columns(2), add_columns(2);
    columns(1), add_columns(1);
    rows(1), add_rows(1);
    columns(0), add_columns(0);
  }
}
#else
inline constexpr bool kHasTiles = false;
struct TileRegisters {
  TileRegisters() {}
};
#endif

}  // namespace lowrank::LOWRANK_ISA
