// The plain search in bf16, for processors with AVX512-BF16.
#include "bench/kernels.hpp"
#include "cpu/isa/ops_avx512.hpp"

namespace musc {
namespace {

struct Bf16 : Avx512FloatScore {
  using Words = __m512bh;
  static MUSC_INLINE Words load_words(const uint32_t* from) {
    return (__m512bh)_mm512_loadu_si512(from);
  }
  static MUSC_INLINE Words broadcast_word(uint32_t word) {
    return (__m512bh)_mm512_set1_epi32(static_cast<int32_t>(word));
  }
  static MUSC_INLINE Vector dot(Vector sums, Words row, Words columns) {
    return _mm512_dpbf16_ps(sums, row, columns);
  }
};

}  // namespace

extern const FloatKernel kBf16 = {2, pair_kernel<Bf16>, peak_kernel<Bf16>};

}  // namespace musc
