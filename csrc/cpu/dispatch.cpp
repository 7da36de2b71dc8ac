// Which instruction sets were built and can run here.
#include "cpu/isa.hpp"

namespace musc {
namespace {

struct Usable {
  const Isa* list[5];
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
#ifdef MUSC_FAST_HAVE_BF16
    result.add(vnni && __builtin_cpu_supports("avx512bf16"), kBf16);
#endif
#ifdef MUSC_FAST_HAVE_VNNI
    result.add(vnni, kVnni);
#endif
#ifdef MUSC_FAST_HAVE_AVX512
    result.add(avx512, kAvx512);
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
