// The tile operations for AVX512-VNNI: four products a lane. The instruction multiplies unsigned by
// signed bytes, so `right` holds y + 128; left_init of the row x contains -128 * sum(x), which
// cancels the additional 128 * sum(x) of the product.
#pragma once

#include "cpu/isa/ops_avx512.hpp"
#include "cpu/inner/rows.hpp"

namespace musc {
namespace {

struct VnniInt16 : Avx512Score {
  static MUSC_INLINE Vector dot(Vector sums, Words row, Words columns) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(columns), "v"(row));
    return sums;
  }
};

struct Vnni : Avx512Score {
  using Pairs = VnniInt16;
  static constexpr int kElements = 4;
  static MUSC_INLINE Vector dot(Vector sums, Words row, Words columns) {
    // Assembly, because GCC 12 copies the accumulator around the intrinsic, at half the speed.
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(columns), "v"(row));
    return sums;
  }
};

MUSC_INLINE __m256i halves_added(__m512i sums) {
  return _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
}

// Four lanes: the sums over a, b, c and d.
MUSC_INLINE __m128i sums_of_four(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(halves_added(a), halves_added(b)),
                                        _mm256_hadd_epi32(halves_added(c), halves_added(d)));
  return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

// compare_kernel for four pairs of rows at a time; accumulate(sum, x, y) adds 64 bytes of both
// rows.
template <class Int, int64_t AHEAD, class Accumulate>
MUSC_INLINE void compare_fours(const Int* x, const Int* y, int64_t stride, const Picks& picks,
                               int32_t* out, const Accumulate& accumulate) {
  constexpr int64_t kFour = 4, kElements = 64 / static_cast<int64_t>(sizeof(Int));
  const int32_t *row = picks.rows, *other = picks.others;
  const int64_t last = picks.count - 1;
  for (int64_t n = 0; n < picks.count; n += kFour) {
    // Four named variables each, because GCC 12 keeps arrays in memory.
    const int64_t b = n + 1 < last ? n + 1 : last, c = n + 2 < last ? n + 2 : last,
                  d = n + 3 < last ? n + 3 : last;
    if (n + AHEAD + kFour <= picks.count) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < kFour; ++i) fetch(y + other[n + AHEAD + i] * stride, stride);
    }
    const Int *xa = x + row[n] * stride, *xb = x + row[b] * stride, *xc = x + row[c] * stride,
              *xd = x + row[d] * stride, *ya = y + other[n] * stride, *yb = y + other[b] * stride,
              *yc = y + other[c] * stride, *yd = y + other[d] * stride;
    __m512i sa = _mm512_setzero_si512(), sb = sa, sc = sa, sd = sa;
    for (int64_t k = 0; k < stride; k += kElements) {
      sa = accumulate(sa, _mm512_loadu_si512(xa + k), _mm512_loadu_si512(ya + k));
      sb = accumulate(sb, _mm512_loadu_si512(xb + k), _mm512_loadu_si512(yb + k));
      sc = accumulate(sc, _mm512_loadu_si512(xc + k), _mm512_loadu_si512(yc + k));
      sd = accumulate(sd, _mm512_loadu_si512(xd + k), _mm512_loadu_si512(yd + k));
    }
    const __m128i all = sums_of_four(sa, sb, sc, sd);
    if (n + kFour <= picks.count) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + n), all);
    } else {
      alignas(16) int32_t some[kFour];
      _mm_store_si128(reinterpret_cast<__m128i*>(some), all);
      for (int64_t i = 0; n + i < picks.count; ++i) out[n + i] = some[i];
    }
  }
}

void fine_squares_vnni(const int16_t* x, const int16_t* y, int64_t stride, const Picks& picks,
                       int32_t* out) {
  compare_fours<int16_t, 24>(x, y, stride, picks, out, [](__m512i sum, __m512i a, __m512i b) {
    const __m512i difference = _mm512_sub_epi16(a, b);
    asm("vpdpwssd %1, %1, %0" : "+v"(sum) : "v"(difference));
    return sum;
  });
}

void rest_dots_vnni(const int8_t* x, const int8_t* y, int64_t stride, const Picks& picks,
                    int32_t* out) {
  const __m512i flip = _mm512_set1_epi8(-128);
  compare_fours<int8_t, 24>(x, y, stride, picks, out, [flip](__m512i sum, __m512i a, __m512i b) {
    return Vnni::dot(sum, a, _mm512_xor_si512(b, flip));
  });
}

constexpr KernelTable with_vnni(KernelTable table) {
  table.fine_squares = fine_squares_vnni;
  table.rest_dots = rest_dots_vnni;
  table.rest_bias = 128;
  return table;
}

}  // namespace
}  // namespace musc
