// Packing a panel of either factor in the form that the product is computed in.
#pragma once
#include "pack_tiles.h"

namespace lowrank::LOWRANK_ISA {

// Packs `valid` lanes of a factor over k elements of K into a panel of `lanes`, whose other lanes become zero.
inline void pack_panel(const Factor& f, int64_t valid, int64_t lanes, int64_t k, Form form, uint32_t* panel) {
#if defined(__AMX_BF16__)
  if (form == Form::parts) return lanes == kLanes ? pack_in_parts<1, true>(f, valid, k, panel) : pack_in_parts<2, true>(f, valid, k, panel);
#endif
  if (form == Form::tiles) {
    const int64_t steps = steps_of(Form::pairs, k);
    std::fill(panel + steps * lanes, panel + steps_of(form, k) * lanes, 0);
    form = Form::pairs;
  }
  f.mask ? pack_lanes<true>(f, valid, lanes, k, form, panel) : pack_lanes<false>(f, valid, lanes, k, form, panel);
}

// The same for a left factor and a panel of Rows lanes, which differs from a right one where tile registers multiply it.
template <int Rows>
inline void pack_left_panel(const Factor& f, int64_t valid, int64_t k, Form form, uint32_t* panel) {
#if defined(__AMX_BF16__)
  if constexpr (Rows % kTile == 0) {
    if (form == Form::parts) return pack_in_parts<Rows / 16, false>(f, valid, k, panel);
    return f.mask ? pack_tile_rows<Rows, true>(f, valid, k, panel) : pack_tile_rows<Rows, false>(f, valid, k, panel);
  }
#endif
  pack_panel(f, valid, Rows, k, form, panel);
}

// Prefetches the rows [begin, end) of K in a panel of columns that is about to be packed.
[[gnu::always_inline]] inline void prefetch_rows(const Factor& f, int64_t begin, int64_t end, int64_t columns) {
  const int64_t halves = f.tensor->dtype == DType::u4 ? 1 : 2 * bytes_per_element(f.tensor->dtype);
  for (int64_t k = begin; k < end; k++) {
    const char* line = static_cast<const char*>(f.tensor->data) + f.element(0, k) * halves / 2;
    for (int64_t at = 0; at < columns * halves / 2; at += 64) __builtin_prefetch(line + at, 0, 2);
  }
}

}  // namespace lowrank::LOWRANK_ISA
