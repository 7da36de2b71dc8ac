// The inner loops of LNAMD, compiled for each instruction set; sums have 16 partial sums in a fixed
// order, so that every instruction set gives the same bits. Included by the isa/*.cpp files
// alone.
#pragma once

#include <cstdint>

namespace musc {
namespace {

constexpr int kPartial = 16;

template <class T>
double partial_squares(const T* x, int64_t count, double centre, bool square) {
  double sums[kPartial] = {};
  int64_t i = 0;
  if (square) {
    for (; i + kPartial <= count; i += kPartial) {
      for (int k = 0; k < kPartial; ++k) {
        const double value = static_cast<double>(x[i + k]) - centre;
        sums[k] += value * value;
      }
    }
  } else {
    for (; i + kPartial <= count; i += kPartial) {
      for (int k = 0; k < kPartial; ++k) sums[k] += static_cast<double>(x[i + k]);
    }
  }
  for (; i < count; ++i) {
    const double value = static_cast<double>(x[i]) - (square ? centre : 0.0);
    sums[i % kPartial] += square ? value * value : value;
  }
  double sum = 0.0;
  for (int k = 0; k < kPartial; ++k) sum += sums[k];
  return sum;
}

double sum_kernel(const float* x, int64_t count) { return partial_squares(x, count, 0.0, false); }
double squares_about_kernel(const float* x, int64_t count, double centre) {
  return partial_squares(x, count, centre, true);
}
double squares_about_double_kernel(const double* x, int64_t count, double centre) {
  return partial_squares(x, count, centre, true);
}

// sums += enters - leaves, either of which may be null.
template <class T>
void slide_kernel(double* sums, const T* enters, const T* leaves, int64_t count) {
  if (enters != nullptr && leaves != nullptr) {
    for (int64_t i = 0; i < count; ++i) {
      sums[i] += static_cast<double>(enters[i]) - static_cast<double>(leaves[i]);
    }
  } else if (enters != nullptr) {
    for (int64_t i = 0; i < count; ++i) sums[i] += static_cast<double>(enters[i]);
  } else if (leaves != nullptr) {
    for (int64_t i = 0; i < count; ++i) sums[i] -= static_cast<double>(leaves[i]);
  }
}

void centre_and_scale_kernel(const double* x, int64_t count, double centre, double scale,
                             float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>((x[i] - centre) * scale);
}

}  // namespace
}  // namespace musc
