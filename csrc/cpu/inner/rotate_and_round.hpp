// Rounding rows in all channels, which a rotation mixes first: a panel of 16 rows at a time, one
// lane a row, so that only the first and the last step move values between lanes. Included by the
// isa/*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/kernel_table.hpp"
#include "cpu/inner/transpose.hpp"

namespace musc {
namespace {

// LEVELS successive Walsh-Hadamard steps on the `size` values at `block`, the first one pairing
// values `half` apart.
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

// The rotation: random signs and Walsh-Hadamard steps on the first `size` channels (a power of
// two), then the same on the last `size` channels. It is orthonormal, and spreads any one channel
// over at least `size` channels.
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
void round_panel_kernel(RotatedPanel& panel) {
  Floats* values = reinterpret_cast<Floats*>(panel.scratch);
  centre_lanes<kPanel>(panel.x, panel.channels, panel.rows, panel.mean, panel.channels,
                       panel.scratch);
  Floats norm = {};
  for (int64_t c = 0; c < panel.channels; ++c) norm += values[c] * values[c];
  rotate(values, panel.channels, panel.size, panel.signs);
  constexpr float kMost = 127.0f, kToInteger = 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const float limit = kMost * panel.scale;
  Floats lost = {};
  Ints square = {}, sum = {};
  Floats lines[kPanel] = {};  // words of the 16 rows, as bits
  for (int64_t k = 0; k < panel.words; ++k) {
    Ints word = {};
#pragma GCC unroll 4
    for (int e = 0; e < ELEMENTS; ++e) {
      const int64_t c = k * ELEMENTS + e;
      if (c >= panel.channels) break;
      Floats value = values[c];
      value = value > limit ? limit - Floats{} : value;
      value = value < -limit ? Floats{} - limit : value;
      const Floats level = (value * panel.inverse + kToInteger) - kToInteger;
      const Floats rest = value - panel.scale * level;
      lost += rest * rest;
      const Ints rounded = __builtin_convertvector(level, Ints);
      square += rounded * rounded;
      sum += rounded;
      constexpr int kBits = 32 / ELEMENTS;
      word |= (rounded & ((1 << kBits) - 1)) << (kBits * e);
    }
    const Ints shifted = ELEMENTS == 4 ? word ^ static_cast<int32_t>(0x80808080u) : word;
    __builtin_memcpy(panel.right + k * kPanel, &shifted, sizeof shifted);
    if (!kTranspose) {
      for (int r = 0; r < kPanel; ++r) {
        panel.left[r * panel.words + k] = static_cast<uint32_t>(word[r]);
      }
      continue;
    }
    __builtin_memcpy(&lines[k % kPanel], &word, sizeof word);
    if (k % kPanel == kPanel - 1 || k == panel.words - 1) {
      const int64_t begin = k / kPanel * kPanel;
      transpose(lines);
      for (int r = 0; r < kPanel; ++r) {
        const int64_t bytes = 4 * (k + 1 - begin);
        __builtin_memcpy(panel.left + r * panel.words + begin, &lines[r], bytes);
      }
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
