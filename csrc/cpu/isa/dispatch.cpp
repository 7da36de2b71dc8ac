#include "cpu/isa/dispatch.hpp"

#include "cpu/isa/list.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace musc {
namespace {

#if defined(__x86_64__)

[[maybe_unused]] bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

[[maybe_unused]] bool has_avx512_vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

// Not every compiler's __builtin_cpu_supports knows AVX-VNNI: leaf 7, subleaf 1, EAX bit 4.
[[maybe_unused]] bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

// Leaf 7, EDX bits 24 (tiles) and 25 (int8). Linux gives a process the 8 KiB of tile state only on
// request.
[[maybe_unused]] bool has_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx512_vnni() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 &&
         (d >> 24 & 3) == 3 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

#else

[[maybe_unused]] bool has_avx2() { return false; }
[[maybe_unused]] bool has_avx512() { return false; }
[[maybe_unused]] bool has_avx512_vnni() { return false; }
[[maybe_unused]] bool has_avx_vnni() { return false; }
[[maybe_unused]] bool has_amx() { return false; }

#endif

std::vector<InstructionSet> usable() {
#if defined(__x86_64__)
  __builtin_cpu_init();  // It also asks the operating system about the wide registers.
#endif
  std::vector<InstructionSet> found;
#define MUSC_ADD(table, name, built, runs, tile_unit)           \
  if constexpr ((built) != 0) {                                 \
    if (runs) found.push_back({name, &(table), (tile_unit)});   \
  }
  MUSC_INSTRUCTION_SETS(MUSC_ADD)
#undef MUSC_ADD
  return found;
}

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> found = usable();
  return found;
}

}  // namespace musc
