// The tables of processors with AVX512-BF16.
#pragma once

#include "cpu/ops_vnni.hpp"
#include "cpu/table.hpp"

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

constexpr Isa with_bf16(Isa isa) {
  isa.bf16 = {2, pair_kernel<Bf16>, peak_kernel<Bf16>};
  return isa;
}

}  // namespace

}  // namespace musc
