// Which instruction set runs: chosen once per backend from those that were compiled and that the machine has.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace lowrank {

struct KernelTable {
  Kernel kernels[static_cast<int>(Op::count)];
  // Runs a loop of multiply-adds in registers alone, f32 or bf16 pairs, and returns the number of floating-point operations done.
  double (*peak_f32)(int64_t rounds);
  double (*peak_bf16)(int64_t rounds);
};

struct InstructionSet {
  const char* name;   // what LOWRANK_CPU says
  const char* label;  // for people
  const KernelTable* table;
};

// Those that were compiled and that this machine has, the plainest first; never empty.
const std::vector<InstructionSet>& instruction_sets();

// The named one, or the richest where the name is empty. Throws where it is unknown, was not compiled or the machine lacks it.
const InstructionSet& choose_instruction_set(const std::string& name);

}  // namespace lowrank
