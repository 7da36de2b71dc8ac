#include "cpu/isa.hpp"
#include "cpu/ops_vnni.hpp"

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

extern const Isa kBf16 = {
    "avx512-bf16",
    {4, pair_kernel<Vnni>, scan_kernel<Vnni>, peak_kernel<Vnni>},
    {1, pair_kernel<Avx512Fp32>, peak_kernel<Avx512Fp32>},
    {2, pair_kernel<Bf16>, peak_kernel<Bf16>},
    project_kernel<Avx512Fp32>,
    rotate_kernel,
    squared_distances_kernel,
    round_kernel<int8_t>,
    round_kernel<int16_t>,
    squares_kernel<int16_t, 8>,
    squares_kernel<int8_t, 3>,
    largest_kernel,
    select_avx512,
    sum_kernel,
    squares_about_kernel,
    squares_about_double_kernel,
    slide_kernel<float>,
    slide_kernel<double>,
    centre_and_scale_kernel,
};

}  // namespace musc
