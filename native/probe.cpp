// Prints the instruction sets that this machine has: what the build compiles unless it is told otherwise.
#include <cstdio>

#include "platform/processor.h"

int main() {
  for (const auto& set : lowrank::processor_sets())
    if (set.available) std::puts(set.name);
}
