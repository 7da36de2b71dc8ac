// Which benchmark kernels there are: those of the usable instruction sets, and bf16.
#include "bench/kernels.hpp"

#include "cpu/isa/list.hpp"

namespace musc {

#define MUSC_DECLARE(table, name, built, runs, tile_unit) extern const BenchKernels table##Bench;
MUSC_INSTRUCTION_SETS(MUSC_DECLARE)
#undef MUSC_DECLARE
extern const FloatKernel kBf16;

const BenchKernels* bench_kernels(const std::string& name) {
#define MUSC_FIND(table, public_name, built, runs, tile_unit) \
  if constexpr ((built) != 0) {                               \
    if (name == (public_name)) return &table##Bench;          \
  }
  MUSC_INSTRUCTION_SETS(MUSC_FIND)
#undef MUSC_FIND
  return nullptr;
}

const FloatKernel& bf16_kernel() {
  static const FloatKernel none{2, nullptr, nullptr};
  if constexpr (MUSC_BUILT_BF16 != 0) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bf16")) return kBf16;
#endif
  }
  return none;
}

}  // namespace musc
