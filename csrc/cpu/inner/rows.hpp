// Loops over single rows (rounding, comparing), compiled for each instruction set; the
// compiler vectorises most of them. Included by the isa/*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/kernel_table.hpp"

namespace musc {
namespace {

// 32 partial sums, added in a fixed tree, without fused multiply-add (not every processor has it):
// every instruction set gives the same bits. They are two vectors of 16 lanes on AVX-512, else four
// of eight, which compilers keep in registers, where they move 16 through memory.
#ifdef __AVX512F__
constexpr int64_t kSumLanes = 16;
#else
constexpr int64_t kSumLanes = 8;
#endif

float squared_distance(const float* x, const float* y, int64_t channels) {
  typedef float Lanes __attribute__((vector_size(4 * kSumLanes)));
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  constexpr int64_t kSums = 32, kVectors = kSums / kSumLanes;
  Lanes sums[kVectors] = {};
  const auto add = [&](const float* from, const float* other) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVectors; ++v) {
      Lanes left, right;
      __builtin_memcpy(&left, from + v * kSumLanes, sizeof left);
      __builtin_memcpy(&right, other + v * kSumLanes, sizeof right);
      left -= right;
      sums[v] += left * left;
    }
  };
  int64_t at = 0;
  for (; at + kSums <= channels; at += kSums) add(x + at, y + at);
  if (at < channels) {
    float last[2][kSums] = {};
    for (int64_t i = 0; at + i < channels; ++i) {
      last[0][i] = x[at + i];
      last[1][i] = y[at + i];
    }
    add(last[0], last[1]);
  }
  Eight eights[2];  // the first half of the sums with the second
#pragma GCC unroll 2
  for (int64_t v = 0; v < kVectors / 2; ++v) {
    const Lanes both = sums[v] + sums[v + kVectors / 2];
    __builtin_memcpy(reinterpret_cast<char*>(eights) + v * 4 * kSumLanes, &both, sizeof both);
  }
  const Eight all = eights[0] + eights[1];
  Four first, second;
  __builtin_memcpy(&first, &all, sizeof first);
  __builtin_memcpy(&second, reinterpret_cast<const char*>(&all) + sizeof first, sizeof second);
  first += second;
  return (first[0] + first[2]) + (first[1] + first[3]);
}

void squared_distances_kernel(const float* x, const float* y, int64_t channels, const Picks& picks,
                              float* out) {
  constexpr int64_t kAhead = 6;
  for (int64_t n = 0; n < picks.count; ++n) {
    if (n + kAhead < picks.count) {
      const int32_t row = picks.rows[n + kAhead], other = picks.others[n + kAhead];
      if (row != picks.rows[n + kAhead - 1]) fetch(x + row * channels, channels);
      if (other != picks.others[n + kAhead - 1]) fetch(y + other * channels, channels);
    }
    out[n] = squared_distance(x + picks.rows[n] * channels, y + picks.others[n] * channels,
                              channels);
  }
}

void subtract_kernel(const float* x, const float* y, int64_t count, float* out) {
  for (int64_t c = 0; c < count; ++c) out[c] = x[c] - y[c];
}

// out = round(value * inverse) of the values clipped to +-most steps; returns the sum of the
// squared rounding errors of the clipped values.
template <class Int>
float round_kernel(const float* value, int64_t count, float scale, float inverse, float most,
                   Int* out) {
  constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float limit = most * scale;
  const auto round = [=](float v, float& lost) __attribute__((always_inline)) {
    v = v > limit ? limit : v;
    v = v < -limit ? -limit : v;
    const float level = (v * inverse + kToInteger) - kToInteger;
    const float rest = v - scale * level;
    lost += rest * rest;
    return static_cast<Int>(static_cast<int32_t>(level));
  };
  float sums[16] = {};
  int64_t c = 0;
  for (; c + 16 <= count; c += 16) {
    for (int i = 0; i < 16; ++i) out[c + i] = round(value[c + i], sums[i]);
  }
  for (; c < count; ++c) out[c] = round(value[c], sums[c % 16]);
  float sum = 0.0f;
  for (int i = 0; i < 16; ++i) sum += sums[i];
  return sum;
}

int32_t fine_square(const int16_t* x, const int16_t* y, int64_t count) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int16_t difference = static_cast<int16_t>(x[i] - y[i]);
    sum += static_cast<int32_t>(difference) * static_cast<int32_t>(difference);
  }
  return sum;
}

int32_t rest_dot(const int8_t* x, const int8_t* y, int64_t count) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += static_cast<int32_t>(static_cast<int16_t>(x[i])) *
           static_cast<int32_t>(static_cast<int16_t>(y[i]));
  }
  return sum;
}

template <class Int, int32_t (*COMPARE)(const Int*, const Int*, int64_t), int AHEAD>
void compare_kernel(const Int* x, const Int* y, int64_t stride, const Picks& picks, int32_t* out) {
  for (int64_t n = 0; n < picks.count; ++n) {
    if (n + AHEAD < picks.count) fetch(y + picks.others[n + AHEAD] * stride, stride);
    out[n] = COMPARE(x + picks.rows[n] * stride, y + picks.others[n] * stride, stride);
  }
}

// `count` is whole panels.
template <class Ops>
int64_t largest_kernel(const int32_t* scores, int64_t count) {
  auto best = Ops::load(scores);
  for (int64_t at = kPanel; at < count; at += kPanel) best = Ops::max(best, Ops::load(scores + at));
  const int32_t largest = Ops::largest(best);
  for (int64_t at = 0;; at += kPanel) {
    const uint32_t bits = Ops::reached(Ops::load(scores + at), largest);
    if (bits != 0) return at + __builtin_ctz(bits);
  }
}

template <class Ops>
void choose_kernel(const ChooseArgs& args) {
  const ChooseArgs a = args;  // a local copy: stores to `masks` cannot change it
  int32_t least[kMaxSegment / kPanel];
  least_scores(a.row_limit, a.panel_errors, a.panels, least);
  for (int64_t panel = 0; panel < a.panels; ++panel) {
    a.masks[panel] =
        static_cast<uint16_t>(Ops::reached(Ops::load(a.scores + panel * kPanel), least[panel]));
  }
}

}  // namespace
}  // namespace musc
