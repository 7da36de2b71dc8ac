// The instruction sets that were built and that this processor can run.
#pragma once

#include <vector>

#include "cpu/kernel_table.hpp"

namespace musc {

struct InstructionSet {
  const char* name;
  const KernelTable* kernels;
  bool tile_unit;
};

// Best first; the last is "portable".
const std::vector<InstructionSet>& instruction_sets();

}  // namespace musc
