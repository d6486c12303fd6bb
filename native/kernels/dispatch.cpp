#include "dispatch.h"

#include <cstdarg>
#include <cstdio>
#include <stdexcept>

#include "../platform/processor.h"

namespace lowrank {

void fail(const char* format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw std::runtime_error(message);
}

// LOWRANK_ISAS is X(generic) X(avx2) …: the sets that the compiler could make.
#define X(isa)               \
  namespace isa {            \
  extern const KernelTable table; \
  }
LOWRANK_ISAS
#undef X

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> sets = [] {
    std::vector<InstructionSet> found;
    const auto add = [&](const char* name, const KernelTable& kernels) {
      if (const ProcessorSet* set = processor_set(name); set && set->available) found.push_back({set->name, set->label, &kernels});
    };
#define X(isa) add(#isa, isa::table);
    LOWRANK_ISAS
#undef X
    return found;
  }();
  return sets;
}

const InstructionSet& choose_instruction_set(const std::string& name) {
  const auto& sets = instruction_sets();
  if (name.empty()) return sets.back();
  for (const InstructionSet& set : sets)
    if (name == set.name) return set;
  const ProcessorSet* known = processor_set(name);
  if (known && known->available)
    throw std::runtime_error(std::string("this machine has ") + known->label +
                             ", but the addon was built without it; run: npx lowrank build-native --all");
  if (known) throw std::runtime_error(std::string("this machine has no ") + known->label);
  std::string names;
  for (const ProcessorSet& set : processor_sets()) names += std::string(names.empty() ? "" : ", ") + set.name;
  throw std::runtime_error("unknown instruction set \"" + name + "\" (known: " + names + ")");
}

}  // namespace lowrank
