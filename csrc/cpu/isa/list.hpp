// The instruction sets, best first. To add one:
//   1. Write its operations in isa/ops_<set>.hpp, after the model of ops_portable.hpp, and one line
//      MUSC_DEFINE_ISA in isa/<set>.cpp.
//   2. In CMakeLists.txt add musc_fast_isa(<SET> ...): the compiler flags of that file, and a line
//      of code that only compiles where the compiler knows the instructions. MUSC_BUILT_<SET>
//      becomes 0 or 1.
//   3. In dispatch.cpp add the test of the processor, and here the entry.
// Nothing else names a set: Python asks for its capabilities, and the tests run every set that the
// processor has.
#pragma once

#include "cpu/kernel_table.hpp"

// X(table, public name, built, test of the processor, tile unit)
// Tile unit: matrix products are so fast that the search in all channels beats one in a basis.
#define MUSC_INSTRUCTION_SETS(X)                                                   \
  X(kAmx, "amx-int8", MUSC_BUILT_AMX, has_amx(), true)                             \
  X(kAvx512Vnni, "avx512-vnni", MUSC_BUILT_AVX512_VNNI, has_avx512_vnni(), false)  \
  X(kAvx512, "avx512", MUSC_BUILT_AVX512, has_avx512(), false)                     \
  X(kAvxVnni, "avx-vnni", MUSC_BUILT_AVX_VNNI, has_avx_vnni(), false)              \
  X(kAvx512VlVnni, "avx512vl-vnni", MUSC_BUILT_AVX_VNNI, has_avx512_vnni(), false) \
  X(kAvx2, "avx2", MUSC_BUILT_AVX2, has_avx2(), false)                             \
  X(kPortable, "portable", 1, true, false)

namespace musc {

#define MUSC_DECLARE(table, name, built, runs, tile_unit) extern const KernelTable table;
MUSC_INSTRUCTION_SETS(MUSC_DECLARE)
#undef MUSC_DECLARE

}  // namespace musc
