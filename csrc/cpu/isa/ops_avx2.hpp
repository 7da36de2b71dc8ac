// The tile operations for AVX2: a vector of 16 scores is two registers, and a tile of 4 rows x 1
// panel fills the 16 registers. Bytes are stored as int16, because the product of bytes
// (vpmaddubsw) saturates.
#pragma once

#include <immintrin.h>

#include "cpu/isa/ops_portable.hpp"

namespace musc {
namespace {

template <class Register>
struct Two {
  Register low, high;
};

struct Avx2Int : PortableInt {
  using Pairs = Avx2Int;
  using Vector = Two<__m256i>;
  using Words = Two<__m256i>;
  static constexpr int kRows = 4;
  static MUSC_INLINE __m256i load_half(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  static MUSC_INLINE Vector load(const Score* from) {
    return {load_half(from), load_half(from + 8)};
  }
  static MUSC_INLINE void store(Score* to, Vector value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), value.high);
  }
  static MUSC_INLINE Vector broadcast(Score value) {
    const __m256i all = _mm256_set1_epi32(value);
    return {all, all};
  }
  static MUSC_INLINE Vector add(Vector a, Vector b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  static MUSC_INLINE Vector max(Vector a, Vector b) {
    return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
  }
  static MUSC_INLINE Vector min(Vector a, Vector b) {
    return {_mm256_min_epi32(a.low, b.low), _mm256_min_epi32(a.high, b.high)};
  }
  static MUSC_INLINE Vector key(Vector scores, int32_t clear, int32_t slot) {
    const __m256i kept = _mm256_set1_epi32(clear), low = _mm256_set1_epi32(slot);
    return {_mm256_or_si256(_mm256_and_si256(scores.low, kept), low),
            _mm256_or_si256(_mm256_and_si256(scores.high, kept), low)};
  }
  static MUSC_INLINE Vector lowest() { return broadcast(-(1 << 30)); }
  static MUSC_INLINE Words load_words(const uint32_t* from) {
    return {load_half(from), load_half(from + 8)};
  }
  static MUSC_INLINE __m256i broadcast_word(uint32_t word) {
    return _mm256_set1_epi32(static_cast<int32_t>(word));
  }
  static MUSC_INLINE Vector dot(Vector sums, __m256i row, Words columns) {
    return {_mm256_add_epi32(sums.low, _mm256_madd_epi16(row, columns.low)),
            _mm256_add_epi32(sums.high, _mm256_madd_epi16(row, columns.high))};
  }
  static MUSC_INLINE void store_best(Best* to, Vector score, int shift) {
    alignas(32) Score lanes[kPanel];
    store(lanes, score);
    for (int i = 0; i < kPanel; ++i) to[i] = pack(lanes[i], shift);
  }
  // See PortableInt.
  static MUSC_INLINE uint32_t reached(Vector scores, Score least) {
    const __m256i all = _mm256_set1_epi32(least);
    const auto below = [&](__m256i half) {
      return static_cast<uint32_t>(
          _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(all, half))));
    };
    return ~(below(scores.low) | below(scores.high) << 8) & 0xffffu;
  }
  static MUSC_INLINE Score largest(Vector scores) {
    alignas(32) Score lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes),
                       _mm256_max_epi32(scores.low, scores.high));
    Score best = lanes[0];
    for (int i = 1; i < 8; ++i) best = lanes[i] > best ? lanes[i] : best;
    return best;
  }
  // See PortableInt.
  static MUSC_INLINE uint32_t split(const uint16_t* scores, const Shorts& limits,
                                    Shorts& outside) {
    Two<__m256i> limit, least, keep;
    __builtin_memcpy(&limit, &limits, sizeof limit);
    __builtin_memcpy(&least, &outside, sizeof least);
    const auto half = [](__m256i score, __m256i limit, __m256i& least) {
      const __m256i keep = _mm256_cmpeq_epi16(_mm256_max_epu16(score, limit), limit);
      least = _mm256_min_epu16(least, _mm256_or_si256(score, keep));
      return keep;
    };
    keep.low = half(load_half(scores), limit.low, least.low);
    keep.high = half(load_half(scores + 16), limit.high, least.high);
    __builtin_memcpy(&outside, &least, sizeof least);
    const __m256i mixed = _mm256_packs_epi16(keep.low, keep.high);
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(mixed, 0xd8)));
  }
  static MUSC_INLINE void reduce_rows(const Vector* rows, int shift, Best* out) {
    for (int r = 0; r < kTileRows; ++r) out[r] = pack(largest(rows[r]), shift);
  }
};

struct Avx2Float : PortableFloat {
  using Vector = Two<__m256>;
  using Words = Two<__m256>;
  static constexpr int kRows = 4;
  static MUSC_INLINE Vector load(const float* from) {
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  }
  static MUSC_INLINE void store(float* to, Vector value) {
    _mm256_storeu_ps(to, value.low);
    _mm256_storeu_ps(to + 8, value.high);
  }
  static MUSC_INLINE Vector broadcast(float value) {
    const __m256 all = _mm256_set1_ps(value);
    return {all, all};
  }
  static MUSC_INLINE Vector add(Vector a, Vector b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static MUSC_INLINE Vector max(Vector a, Vector b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static MUSC_INLINE Vector lowest() { return broadcast(-3.4e38f); }
  static MUSC_INLINE Words load_words(const uint32_t* from) {
    return load(reinterpret_cast<const float*>(from));
  }
  static MUSC_INLINE __m256 broadcast_word(uint32_t word) {
    return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int32_t>(word)));
  }
  static MUSC_INLINE Vector dot(Vector sums, __m256 row, Words columns) {
    return {_mm256_fmadd_ps(row, columns.low, sums.low),
            _mm256_fmadd_ps(row, columns.high, sums.high)};
  }
  static MUSC_INLINE Vector multiply_add(Vector sums, float a, Vector b) {
    return dot(sums, _mm256_set1_ps(a), b);
  }
  static MUSC_INLINE void store_best(Best* to, Vector score, int) {
    const __m256 zero = _mm256_setzero_ps();
    store(to, {_mm256_sub_ps(zero, score.low), _mm256_sub_ps(zero, score.high)});
  }
  static MUSC_INLINE void reduce_rows(const Vector* rows, int, Best* out) {
    for (int r = 0; r < kTileRows; ++r) {
      alignas(32) float lanes[8];
      _mm256_store_ps(lanes, _mm256_max_ps(rows[r].low, rows[r].high));
      float best = lanes[0];
      for (int i = 1; i < 8; ++i) best = lanes[i] > best ? lanes[i] : best;
      out[r] = -best;
    }
  }
};

}  // namespace
}  // namespace musc
