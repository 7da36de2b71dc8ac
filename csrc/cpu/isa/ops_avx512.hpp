// The tile operations for AVX-512. A tile is 8 rows x 3 panels: 24 registers of sums, 3 of columns
// and one of a row.
#pragma once

#include <immintrin.h>

#include "cpu/inner/tile.hpp"

namespace musc {
namespace {

struct Avx512Base {
  static constexpr int kRows = 8;
  static constexpr int kPanels = 3;
};

// Integer scores, without the dot product, which depends on how int8 values lie in a word.
struct Avx512Score : Avx512Base {
  using Score = int32_t;
  using Best = uint16_t;
  using Vector = __m512i;
  using Words = __m512i;
  static MUSC_INLINE Vector load(const Score* from) { return _mm512_loadu_si512(from); }
  static MUSC_INLINE void store(Score* to, Vector value) { _mm512_storeu_si512(to, value); }
  static MUSC_INLINE Vector broadcast(Score value) { return _mm512_set1_epi32(value); }
  static MUSC_INLINE Vector add(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
  static MUSC_INLINE Vector max(Vector a, Vector b) { return _mm512_max_epi32(a, b); }
  static MUSC_INLINE Vector min(Vector a, Vector b) { return _mm512_min_epi32(a, b); }
  static MUSC_INLINE Vector key(Vector scores, int32_t clear, int32_t slot) {
    constexpr int kAndThenOr = 0xea;
    return _mm512_ternarylogic_epi32(scores, _mm512_set1_epi32(clear), _mm512_set1_epi32(slot),
                                     kAndThenOr);
  }
  static MUSC_INLINE Vector lowest() { return _mm512_set1_epi32(-(1 << 30)); }
  static MUSC_INLINE Words load_words(const uint32_t* from) { return _mm512_loadu_si512(from); }
  static MUSC_INLINE Words broadcast_word(uint32_t word) {
    return _mm512_set1_epi32(static_cast<int32_t>(word));
  }
  static MUSC_INLINE void store_best(Best* to, Vector score, int shift) {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i t = _mm512_max_epi32(_mm512_sub_epi32(zero, score), zero);
    const __m256i packed = _mm512_cvtusepi32_epi16(_mm512_srl_epi32(t, _mm_cvtsi32_si128(shift)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed);
  }
  static MUSC_INLINE void reduce_rows(const Vector* rows, int shift, Best* out) {
    store_eight(row_maxima(rows), shift, out);
  }
  // As above, after adding the inits of the rows.
  static MUSC_INLINE void reduce_rows(const Vector* rows, const Score* init, int shift, Best* out) {
    const __m256i inits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(init));
    store_eight(_mm256_add_epi32(row_maxima(rows), inits), shift, out);
  }
  // The maxima of eight vectors of 16 lanes: each step halves both the vectors and the lanes.
  static MUSC_INLINE __m256i row_maxima(const Vector* rows) {
    __m512i pairs[4];
    for (int i = 0; i < 4; ++i) {
      pairs[i] = max(_mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]),
                     _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]));
    }
    const __m512i low =
        max(_mm512_unpacklo_epi64(pairs[0], pairs[1]), _mm512_unpackhi_epi64(pairs[0], pairs[1]));
    const __m512i high =
        max(_mm512_unpacklo_epi64(pairs[2], pairs[3]), _mm512_unpackhi_epi64(pairs[2], pairs[3]));
    const __m512i halves = max(_mm512_shuffle_i32x4(low, high, 0x44),
                               _mm512_shuffle_i32x4(low, high, 0xee));
    const __m512i all = max(halves, _mm512_shuffle_i32x4(halves, halves, 0xb1));
    return _mm512_castsi512_si256(_mm512_shuffle_i32x4(all, all, 0x08));
  }
  static MUSC_INLINE void store_eight(__m256i score, int shift, Best* out) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i t = _mm256_max_epi32(_mm256_sub_epi32(zero, score), zero);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm256_cvtusepi32_epi16(_mm256_srl_epi32(t, _mm_cvtsi32_si128(shift))));
  }
  // See PortableInt.
  static MUSC_INLINE uint32_t split(const uint16_t* scores, const Shorts& limits,
                                    Shorts& outside) {
    const __m512i score = _mm512_loadu_si512(scores), least = reinterpret_cast<__m512i>(outside);
    const __mmask32 keep = _mm512_cmple_epu16_mask(score, reinterpret_cast<__m512i>(limits));
    outside = reinterpret_cast<Shorts>(_mm512_mask_min_epu16(least, ~keep, least, score));
    return keep;
  }
  // See PortableInt.
  static MUSC_INLINE uint32_t within(const float* values, const float* limits) {
    return _mm512_cmp_ps_mask(_mm512_load_ps(values), _mm512_load_ps(limits), _CMP_LE_OQ);
  }
  // See PortableInt; all 16 numbers of out are written.
  static MUSC_INLINE void compress(const int32_t* from, uint32_t keep, int32_t* out) {
    // Compressed in a register: compressing into memory is microcoded on Zen 4.
    store(out, _mm512_maskz_compress_epi32(static_cast<__mmask16>(keep), load(from)));
  }
  // See PortableInt.
  static MUSC_INLINE uint32_t reached(Vector scores, Score least) {
    return _mm512_cmpge_epi32_mask(scores, broadcast(least));
  }
  static MUSC_INLINE Score largest(Vector scores) {
    scores = max(scores, _mm512_shuffle_i32x4(scores, scores, 0x4e));
    scores = max(scores, _mm512_shuffle_i32x4(scores, scores, 0xb1));
    __m128i four = _mm512_castsi512_si128(scores);
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
  }
};

struct Avx512Int16 : Avx512Score {
  using Pairs = Avx512Int16;
  static constexpr int kElements = 2;
  static MUSC_INLINE Vector dot(Vector sums, Words row, Words columns) {
    return _mm512_add_epi32(sums, _mm512_madd_epi16(row, columns));
  }
};

struct Avx512FloatScore : Avx512Base {
  using Score = float;
  using Best = float;
  using Vector = __m512;
  static MUSC_INLINE Vector load(const Score* from) { return _mm512_loadu_ps(from); }
  static MUSC_INLINE void store(Score* to, Vector value) { _mm512_storeu_ps(to, value); }
  static MUSC_INLINE Vector broadcast(Score value) { return _mm512_set1_ps(value); }
  static MUSC_INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static MUSC_INLINE Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static MUSC_INLINE Vector lowest() { return _mm512_set1_ps(-3.4e38f); }
  static MUSC_INLINE Vector multiply_add(Vector sums, float a, Vector b) {
    return _mm512_fmadd_ps(_mm512_set1_ps(a), b, sums);
  }
  static MUSC_INLINE void store_best(Best* to, Vector score, int) {
    _mm512_storeu_ps(to, _mm512_sub_ps(_mm512_setzero_ps(), score));
  }
  static MUSC_INLINE void reduce_rows(const Vector* rows, int, Best* out) {
    for (int r = 0; r < kTileRows; ++r) out[r] = -_mm512_reduce_max_ps(rows[r]);
  }
};

struct Avx512Fp32 : Avx512FloatScore {
  using Words = __m512;
  static MUSC_INLINE Words load_words(const uint32_t* from) { return _mm512_loadu_ps(from); }
  static MUSC_INLINE Words broadcast_word(uint32_t word) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int32_t>(word)));
  }
  static MUSC_INLINE Vector dot(Vector sums, Words row, Words columns) {
    return _mm512_fmadd_ps(row, columns, sums);
  }
};

}  // namespace
}  // namespace musc
