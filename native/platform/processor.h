// Which of the instruction sets that kernels are written for this processor has. The build asks here what to compile (native/probe.cpp),
// the addon what to run.
#pragma once
#include <string_view>
#include <vector>

namespace lowrank {

struct ProcessorSet {
  const char* name;   // what LOWRANK_CPU says
  const char* label;  // for people
  bool available;     // on this machine, and the system lets it be used
};

// All of this kind of processor, the plainest first.
const std::vector<ProcessorSet>& processor_sets();
// The one of this name, or nullptr.
const ProcessorSet* processor_set(std::string_view name);

}  // namespace lowrank
