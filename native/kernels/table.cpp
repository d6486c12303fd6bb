// The kernels of one instruction set, in the order of the op table, and the loops that measure its peak.
#include "blocks.h"
#include "dispatch.h"
#include "tiles.h"

namespace lowrank::LOWRANK_ISA {

namespace {

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
// The number of independent sums: enough to hide how long a multiply-add takes, and few enough for the registers.
constexpr int kChains = kLanes == 4 && kManyRegisters ? 24 : 12;

#if defined(__AMX_BF16__)
// The tiles hold random numbers, since zeros take less power and run a quarter faster.
double peak_bf16(int64_t rounds) {
  alignas(64) uint16_t numbers[4][kTile * 2 * kChunk];
  uint32_t state = 1;
  for (auto& tile : numbers)
    for (uint16_t& number : tile) {
      state = state * 1664525 + 1013904223;
      number = to_bf16(static_cast<float>(state >> 8) * 0x1p-23f - 1);
    }
  const TileRegisters registers;
  load_tile<4>(numbers[0], kChunk * 4);
  load_tile<5>(numbers[1], kChunk * 4);
  load_tile<6>(numbers[2], kChunk * 4);
  load_tile<7>(numbers[3], kChunk * 4);
  clear_sums<2>();
  for (int64_t round = 0; round < rounds; round++) {
    add_product<0, 4, 6>();
    add_product<1, 4, 7>();
    add_product<2, 5, 6>();
    add_product<3, 5, 7>();
  }
  return 4 * 2.0 * 16 * 16 * 32 * static_cast<double>(rounds);
}

double peak_f32(int64_t rounds) { return peak_bf16(rounds) / kPartProducts; }
#else
double peak_f32(int64_t rounds) {
  Vector sums[kChains] = {}, a = {}, b = {};
  LOWRANK_OPAQUE(a);
  LOWRANK_OPAQUE(b);
  // The compiler would otherwise make one chain of equal ones.
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) LOWRANK_OPAQUE(sums[i]);
  for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; i++) {
#if defined(__aarch64__)
      // The instruction works in place only where the product of two others is added.
      sums[i] = (Vector)vfmaq_f32((float32x4_t)sums[i], (float32x4_t)a, (float32x4_t)b);
#else
      sums[i] = a * sums[i] + b;
#endif
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < kChains; i++) LOWRANK_OPAQUE(sums[i]);
  return 2.0 * kLanes * kChains * static_cast<double>(rounds);
}

double peak_bf16(int64_t rounds) {
#if defined(__AVX512BF16__)
  __m512 sums[kChains] = {};
  const __m512bh a = {}, b = {};
  for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) {
      sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
      LOWRANK_OPAQUE(sums[i]);
    }
  }
  return 4.0 * kLanes * kChains * static_cast<double>(rounds);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  Vector sums[kChains] = {}, a = {}, b = {};
  LOWRANK_OPAQUE(a);
  LOWRANK_OPAQUE(b);
  for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; i++) {
      Vector sum = sums[i];
      asm volatile("bfmmla %0.4s, %1.8h, %2.8h" : "+w"(sum) : "w"(a), "w"(b));
      sums[i] = sum;
    }
  }
  return 2.0 * 16 * kChains * static_cast<double>(rounds);
#else
  return peak_f32(rounds);  // since bf16 is widened and multiplied as f32
#endif
}
#endif

constexpr KernelTable make_table() {
  KernelTable table{};
#define LOWRANK_ENTRY(op) table.kernels[static_cast<int>(Op::op)] = op;
  LOWRANK_KERNELS(LOWRANK_ENTRY)
#undef LOWRANK_ENTRY
  table.peak_f32 = peak_f32;
  table.peak_bf16 = peak_bf16;
  return table;
}

constexpr bool complete(const KernelTable& table) {
  for (const Kernel kernel : table.kernels)
    if (!kernel) return false;
  return true;
}

}  // namespace

extern constexpr KernelTable table = make_table();
#ifndef __SANITIZE_ADDRESS__  // With it GCC does not know at compile time that functions have addresses.
static_assert(complete(table), "an op of the table has no kernel");
#endif

}  // namespace lowrank::LOWRANK_ISA
