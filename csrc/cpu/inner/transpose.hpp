// Transposing blocks of 16 x 16 values in vectors, so that each row becomes a lane. Included by the
// isa/*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/kernel_table.hpp"
#include "cpu/inner/tile.hpp"

namespace musc {
namespace {

typedef float Floats __attribute__((vector_size(4 * kPanel)));
typedef int32_t Ints __attribute__((vector_size(4 * kPanel)));
typedef int32_t FourInts __attribute__((vector_size(16)));

#ifdef __clang__
#define MUSC_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define MUSC_SHUFFLE_FOUR(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MUSC_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#define MUSC_SHUFFLE_FOUR(a, b, ...) __builtin_shuffle(a, b, FourInts{__VA_ARGS__})
#endif

// Interleave the low or high lanes, or pairs of lanes, of every 128 bits of two vectors.
MUSC_INLINE Floats low(Floats a, Floats b) {
  return MUSC_SHUFFLE(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
}
MUSC_INLINE Floats high(Floats a, Floats b) {
  return MUSC_SHUFFLE(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
MUSC_INLINE Floats low_pairs(Floats a, Floats b) {
  return MUSC_SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
}
MUSC_INLINE Floats high_pairs(Floats a, Floats b) {
  return MUSC_SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}
// The even or odd 128-bit parts of two vectors.
MUSC_INLINE Floats even_parts(Floats a, Floats b) {
  return MUSC_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
}
MUSC_INLINE Floats odd_parts(Floats a, Floats b) {
  return MUSC_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
#undef MUSC_SHUFFLE

// Exchanges v[i][k] and v[k][i].
MUSC_INLINE void transpose_four(FourInts* v) {
  const FourInts a = MUSC_SHUFFLE_FOUR(v[0], v[1], 0, 4, 1, 5);
  const FourInts b = MUSC_SHUFFLE_FOUR(v[0], v[1], 2, 6, 3, 7);
  const FourInts c = MUSC_SHUFFLE_FOUR(v[2], v[3], 0, 4, 1, 5);
  const FourInts d = MUSC_SHUFFLE_FOUR(v[2], v[3], 2, 6, 3, 7);
  v[0] = MUSC_SHUFFLE_FOUR(a, c, 0, 1, 4, 5);
  v[1] = MUSC_SHUFFLE_FOUR(a, c, 2, 3, 6, 7);
  v[2] = MUSC_SHUFFLE_FOUR(b, d, 0, 1, 4, 5);
  v[3] = MUSC_SHUFFLE_FOUR(b, d, 2, 3, 6, 7);
}
#undef MUSC_SHUFFLE_FOUR

// Exchanges v[i][k] and v[k][i].
MUSC_INLINE void transpose(Floats* v) {
  for (int i = 0; i < kPanel; i += 4) {
    const Floats a = low(v[i], v[i + 1]), b = high(v[i], v[i + 1]);
    const Floats c = low(v[i + 2], v[i + 3]), d = high(v[i + 2], v[i + 3]);
    v[i] = low_pairs(a, c);
    v[i + 1] = high_pairs(a, c);
    v[i + 2] = low_pairs(b, d);
    v[i + 3] = high_pairs(b, d);
  }
  for (int i = 0; i < 4; ++i) {
    const Floats a = even_parts(v[i], v[i + 4]), b = odd_parts(v[i], v[i + 4]);
    const Floats c = even_parts(v[i + 8], v[i + 12]), d = odd_parts(v[i + 8], v[i + 12]);
    v[i] = even_parts(a, c);
    v[i + 4] = even_parts(b, d);
    v[i + 8] = odd_parts(a, c);
    v[i + 12] = odd_parts(b, d);
  }
}

// Transposing pays with registers of 512 bits; where a vector needs several registers it does not.
#ifdef __AVX512F__
constexpr bool kTranspose = true;
#else
constexpr bool kTranspose = false;
#endif

// out [channels][ROWS] = x - mean for up to ROWS rows `stride` apart; missing rows are zero.
template <int ROWS>
MUSC_INLINE void centre_lanes(const float* x, int64_t stride, int64_t rows, const float* mean,
                              int64_t channels, float* out) {
  int64_t c = 0;
  for (; kTranspose && c + kPanel <= channels; c += kPanel) {
    Floats lanes[kPanel] = {}, centre;
    __builtin_memcpy(&centre, mean + c, sizeof centre);
    for (int64_t r = 0; r < ROWS && r < rows; ++r) {
      __builtin_memcpy(&lanes[r], x + r * stride + c, sizeof lanes[r]);
      lanes[r] -= centre;
    }
    transpose(lanes);
    for (int i = 0; i < kPanel; ++i) {
      __builtin_memcpy(out + (c + i) * ROWS, &lanes[i], 4 * ROWS);
    }
  }
  for (; c < channels; ++c) {
    for (int64_t r = 0; r < ROWS; ++r) {
      out[c * ROWS + r] = r < rows ? x[r * stride + c] - mean[c] : 0.0f;
    }
  }
}

}  // namespace
}  // namespace musc
