#include "processor.h"

#include <cstddef>

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstdint>
#include <initializer_list>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

namespace lowrank {

namespace {

#if defined(__x86_64__)

// Tiles are given to a process that asks for them: Linux' Documentation/arch/x86/xstate.rst, Windows' EnableProcessOptionalXStateFeatures.
bool ask_for_tiles() {
  [[maybe_unused]] constexpr int kTileData = 18;
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#elif defined(_WIN32)
  // Not in every Windows that this runs on.
  using Enable = BOOL(WINAPI*)(DWORD64);
  const auto address = GetProcAddress(GetModuleHandleW(L"kernel32.dll"), "EnableProcessOptionalXStateFeatures");
  return address && reinterpret_cast<Enable>(reinterpret_cast<void*>(address))(DWORD64{1} << kTileData);
#else
  return false;
#endif
}

// Intel's manual, volume 2, CPUID; volume 1, chapter 13: the system must keep a set's registers too (XCR0).
std::vector<ProcessorSet> find_sets() {
  struct Leaf {
    unsigned a = 0, b = 0, c = 0, d = 0;
  };
  const auto leaf = [](unsigned number, unsigned part) {
    Leaf l;
    return __get_cpuid_count(number, part, &l.a, &l.b, &l.c, &l.d) ? l : Leaf{};
  };
  const auto has = [](uint64_t bits, std::initializer_list<int> wanted) {
    for (const int bit : wanted)
      if (!(bits >> bit & 1)) return false;
    return true;
  };
  const Leaf one = leaf(1, 0), seven = leaf(7, 0), more = seven.a >= 1 ? leaf(7, 1) : Leaf{};
  uint64_t kept = 0;
  if (has(one.c, {27})) {
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    kept = static_cast<uint64_t>(high) << 32 | low;
  }
  // FMA, F16C, AVX2; the lower and upper halves of 256-bit registers.
  const bool avx2 = has(one.c, {12, 29}) && has(seven.b, {5}) && has(kept, {1, 2});
  // F, DQ, BW, VL; masks and both parts of 512-bit registers.
  const bool avx512 = avx2 && has(seven.b, {16, 17, 30, 31}) && has(kept, {5, 6, 7});
  const bool bf16 = avx512 && has(more.a, {5});
  // VBMI; products of bf16 in tiles, tiles; their configuration and data.
  const bool amx = bf16 && has(seven.c, {1}) && has(seven.d, {22, 24}) && has(kept, {17, 18}) && ask_for_tiles();
  return {{"generic", "SSE2", true},
          {"avx2", "AVX2", avx2},
          {"avx512", "AVX-512", avx512},
          {"avx512bf16", "AVX-512 BF16", bf16},
          {"amx", "AMX", amx}};
}

#elif defined(__aarch64__)

// FEAT_BF16: Apple M2, Graviton 3, Neoverse N2 and later.
bool multiplies_bf16() {
#if defined(__linux__)
  constexpr int kBf16 = 14;  // HWCAP2_BF16, which older headers do not name
  return getauxval(AT_HWCAP2) >> kBf16 & 1;
#elif defined(__APPLE__)
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has != 0;
#else
  return false;
#endif
}

std::vector<ProcessorSet> find_sets() { return {{"neon", "NEON", true}, {"neonbf16", "NEON BF16", multiplies_bf16()}}; }

#else

std::vector<ProcessorSet> find_sets() { return {{"generic", "generic", true}}; }

#endif

}  // namespace

const std::vector<ProcessorSet>& processor_sets() {
  static const std::vector<ProcessorSet> sets = find_sets();
  return sets;
}

const ProcessorSet* processor_set(std::string_view name) {
  for (const ProcessorSet& set : processor_sets())
    if (set.name == name) return &set;
  return nullptr;
}

}  // namespace lowrank
