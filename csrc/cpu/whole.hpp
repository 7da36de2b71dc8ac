// Rounding whole rows, all channels in a rotation: a panel of 16 rows at a time, one lane a row, so
// that nothing here moves between lanes but the first and the last step. Included by the isa_*.cpp
// files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/kernels.hpp"

namespace musc {
namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

// `LEVELS` Walsh-Hadamard steps, from `half` on, of the values at `block`, 2^LEVELS at a time.
template <int LEVELS>
void hadamard(Floats* block, int64_t size, int64_t half) {
  constexpr int kCount = 1 << LEVELS;
  for (int64_t start = 0; start < size; start += kCount * half) {
    for (int64_t offset = start; offset < start + half; ++offset) {
      Floats values[kCount];
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) values[i] = block[offset + i * half];
#pragma GCC unroll 4
      for (int level = 1; level < kCount; level *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < kCount; ++i) {
          if ((i & level) != 0) continue;
          const Floats a = values[i], b = values[i + level];
          values[i] = a + b;
          values[i + level] = a - b;
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) block[offset + i * half] = values[i];
    }
  }
}

// Random signs, then Walsh-Hadamard steps, on the first `size` of the channels (a power of two), then
// on the last: orthonormal, and any one channel spreads over `size` or more.
void rotate(Floats* values, int64_t channels, int64_t size, const float* signs) {
  for (int round = 0; round < 2; ++round) {
    Floats* block = values + (round == 0 ? 0 : channels - size);
    const float* sign = signs + round * size;  // +-1 / sqrt(size)
    for (int64_t c = 0; c < size; ++c) block[c] *= sign[c];
    int64_t half = 1;
    for (; 16 * half <= size; half *= 16) hadamard<4>(block, size, half);
    for (; 4 * half <= size; half *= 4) hadamard<2>(block, size, half);
    for (; 2 * half <= size; half *= 2) hadamard<1>(block, size, half);
  }
}

template <int ELEMENTS>
void round_panel_kernel(WholePanel& panel) {
  Floats* values = reinterpret_cast<Floats*>(panel.scratch);
  float* lanes = panel.scratch;
  for (int64_t r = 0; r < kPanel; ++r) {
    const float* x = panel.x + r * panel.channels;
    for (int64_t c = 0; c < panel.channels; ++c) {
      lanes[c * kPanel + r] = r < panel.rows ? x[c] - panel.mean[c] : 0.0f;
    }
  }
  Floats norm = {};
  for (int64_t c = 0; c < panel.channels; ++c) norm += values[c] * values[c];
  rotate(values, panel.channels, panel.size, panel.signs);
  constexpr float kMost = 127.0f, kToInteger = 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  Floats lost = {};
  Ints square = {}, sum = {};
  for (int64_t k = 0; k < panel.words; ++k) {
    Ints word = {};
#pragma GCC unroll 4
    for (int e = 0; e < ELEMENTS; ++e) {
      const int64_t c = k * ELEMENTS + e;
      if (c >= panel.channels) break;
      Floats level = values[c] * panel.inverse;
      level = level > kMost ? kMost - Floats{} : level;
      level = level < -kMost ? Floats{} - kMost : level;
      level = (level + kToInteger) - kToInteger;
      const Floats rest = values[c] - panel.scale * level;
      lost += rest * rest;
      const Ints rounded = __builtin_convertvector(level, Ints);
      square += rounded * rounded;
      sum += rounded;
      constexpr int kBits = 32 / ELEMENTS;
      word |= (rounded & ((1 << kBits) - 1)) << (kBits * e);
    }
    alignas(64) uint32_t words[kPanel];
    *reinterpret_cast<Ints*>(words) = word;
    for (int r = 0; r < kPanel; ++r) {
      panel.right[k * kPanel + r] = ELEMENTS == 4 ? words[r] ^ 0x80808080u : words[r];
      panel.left[r * panel.words + k] = words[r];
    }
  }
  for (int r = 0; r < kPanel; ++r) {
    panel.norms[r] = norm[r];
    panel.lost[r] = lost[r];
    panel.squares[r] = square[r];
    panel.sums[r] = sum[r];
  }
}

}  // namespace
}  // namespace musc
