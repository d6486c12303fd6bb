#include "dispatch.h"

#include <cstdarg>
#include <cstdio>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace lowrank {

void fail(const char* format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw std::runtime_error(message);
}

// LOWRANK_ISAS is X(generic) X(avx2) …, or X(neon) …: the sets that the compiler could make.
#define X(isa)               \
  namespace isa {            \
  extern const KernelTable table; \
  }
LOWRANK_ISAS
#undef X

namespace {

#if defined(__x86_64__)
// Whether the processor has tile registers with products of bf16 (leaf 7, EDX bits 22 and 24) and permutes bytes (ECX bit 1), and the system
// gives the tiles to this process. Linux wants to be asked (Documentation/arch/x86/xstate.rst).
bool may_use_tiles() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1) || !(c >> 1 & 1)) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#elif defined(__aarch64__)
// Whether the processor multiplies bf16 (FEAT_BF16: Apple M2, Graviton 3, Neoverse N2 and later).
bool may_multiply_bf16() {
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
#endif

bool machine_has(const std::string& isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (isa == "avx2") return avx2;
  if (isa == "avx512") return avx512;
  // Not every compiler's builtin knows it: leaf 7, subleaf 1, EAX bit 5.
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool bf16 = avx512 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
  if (isa == "avx512bf16") return bf16;
  if (isa == "amx") return bf16 && may_use_tiles();
#elif defined(__aarch64__)
  if (isa == "neon") return true;
  if (isa == "neonbf16") return may_multiply_bf16();
#endif
  return isa == "generic";
}

const char* label_of(const std::string& isa) {
  if (isa == "avx2") return "AVX2";
  if (isa == "avx512") return "AVX-512";
  if (isa == "avx512bf16") return "AVX-512 BF16";
  if (isa == "amx") return "AMX";
  if (isa == "neon") return "NEON";
  if (isa == "neonbf16") return "NEON BF16";
#if defined(__x86_64__)
  return "SSE2";
#else
  return "generic";
#endif
}

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
#define X(isa) {#isa, label_of(#isa), machine_has(#isa), &isa::table},
  static const std::vector<InstructionSet> sets{LOWRANK_ISAS};
#undef X
  return sets;
}

const InstructionSet& choose_instruction_set(const std::string& name) {
  const InstructionSet* best = nullptr;
  std::string known;
  for (const auto& set : instruction_sets()) {
    known += std::string(known.empty() ? "" : ", ") + set.name;
    if (name.empty() ? set.available : name == set.name) best = &set;
  }
  if (!best) throw std::runtime_error("unknown instruction set \"" + name + "\" (known: " + known + ")");
  if (!best->available) throw std::runtime_error("this machine has no " + std::string(best->label));
  return *best;
}

}  // namespace lowrank
