// Which instruction sets were built and can run here.
#include "cpu/isa.hpp"

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
// Not every compiler's __builtin_cpu_supports knows it: leaf 7, subleaf 1, EAX bit 4.
[[maybe_unused]] bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

// Leaf 7, EDX bits 24 (tiles) and 25 (int8). The tiles' 8 KiB of state are a thread's own only when
// its process has asked for them.
[[maybe_unused]] bool has_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 24 & 3) == 3 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

struct Usable {
  const Isa* list[8];
  int count = 0;
  void add(bool runs, const Isa& isa) {
    if (runs) list[count++] = &isa;
  }
};

const Usable& usable() {
  static const Usable found = [] {
    Usable result;
#if defined(__x86_64__)
    __builtin_cpu_init();  // It also asks the operating system about the wide registers.
    [[maybe_unused]] const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    [[maybe_unused]] const bool avx512 =
        avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    [[maybe_unused]] const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
#ifdef MUSC_FAST_HAVE_AMX
    result.add(vnni && __builtin_cpu_supports("avx512bf16") && has_amx(), kAmx);
#endif
#ifdef MUSC_FAST_HAVE_BF16
    result.add(vnni && __builtin_cpu_supports("avx512bf16"), kBf16);
#endif
#ifdef MUSC_FAST_HAVE_VNNI
    result.add(vnni, kVnni);
#endif
#ifdef MUSC_FAST_HAVE_AVX512
    result.add(avx512, kAvx512);
#endif
#ifdef MUSC_FAST_HAVE_AVX_VNNI
    result.add(avx2 && has_avx_vnni(), kAvxVnni);
    result.add(vnni, kAvx512VlVnni);
#endif
#ifdef MUSC_FAST_HAVE_AVX2
    result.add(avx2, kAvx2);
#endif
#endif
    result.add(true, kPortable);
    return result;
  }();
  return found;
}

}  // namespace

int isa_count() { return usable().count; }
const Isa& isa_at(int index) { return *usable().list[index]; }

}  // namespace musc
