#include "cpu/interval.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/parallel.hpp"

namespace musc {
namespace {

// Floats as integers of the same order (no NaN): negative values have their magnitude flipped.
inline int32_t ordered(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits ^ static_cast<int32_t>(static_cast<uint32_t>(bits >> 31) >> 1);
}

inline float from_ordered(int32_t key) {
  const int32_t bits = key ^ static_cast<int32_t>(static_cast<uint32_t>(key >> 31) >> 1);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

int64_t count_up_to(const float* x, int64_t count, float threshold) {
  int32_t found = 0;
  for (int64_t i = 0; i < count; ++i) found += x[i] <= threshold ? 1 : 0;
  return found;
}

// The k-th smallest value, between the smallest and the largest one. Bisects on the value.
float kth_by_bisection(const float* x, int64_t count, int64_t k, float smallest, float largest) {
  // Invariant: at least k values are <= high. 64-bit, for low + high may exceed 32.
  int64_t low = ordered(smallest), high = ordered(largest);
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (count_up_to(x, count, from_ordered(static_cast<int32_t>(middle))) >= k) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return from_ordered(static_cast<int32_t>(high));
}

// The k-th smallest value where at most kBeyond values come after it, found among the largest.
constexpr int64_t kBeyond = 3;
float kth_of_largest(const float* x, int64_t count, int64_t k) {
  float largest[kBeyond + 1];
  std::fill_n(largest, kBeyond + 1, -std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < count; ++i) {
    float value = x[i];
    for (float& kept : largest) {
      const float larger = kept < value ? value : kept;
      value = kept < value ? kept : value;
      kept = larger;
    }
  }
  return largest[count - k];
}

// The sum of the k smallest values. Ties at the k-th, t, need no order: the sum takes all values
// below t, and t as often as it takes to reach k.
double sum_of_smallest(const float* x, int64_t count, int64_t k) {
  if (k == 0) return 0.0;
  float low_value = x[0], high_value = x[0];
  for (int64_t i = 1; i < count; ++i) {
    low_value = x[i] < low_value ? x[i] : low_value;
    high_value = x[i] > high_value ? x[i] : high_value;
  }
  const float t = k == count             ? high_value
                  : count - k <= kBeyond ? kth_of_largest(x, count, k)
                                         : kth_by_bisection(x, count, k, low_value, high_value);
  if (!std::isfinite(t)) return t;
  // Sums integers, in units of 2^-40 of the largest value, so that the order of the addends does
  // not matter. A value loses at most 2^-16 of a rounding unit of the largest value.
  int exponent = 0;
  std::frexp(std::max(std::fabs(t), std::fabs(low_value)), &exponent);
  const double unit = std::ldexp(1.0, 40 - exponent);
  int64_t sum = 0, below = 0;
  for (int64_t i = 0; i < count; ++i) {
    const bool counts = x[i] < t;
    sum += counts ? static_cast<int64_t>(static_cast<double>(x[i]) * unit) : 0;
    below += counts ? 1 : 0;
  }
  sum += (k - below) * static_cast<int64_t>(static_cast<double>(t) * unit);
  return static_cast<double>(sum) / unit;
}

}  // namespace

float interval_mean_row(const float* x, int64_t count, int64_t k_min, int64_t k_max) {
  const double upper = sum_of_smallest(x, count, k_max);
  if (std::isinf(upper)) return static_cast<float>(upper);
  const double lower = sum_of_smallest(x, count, k_min);
  return static_cast<float>((upper - lower) / static_cast<double>(k_max - k_min));
}

void interval_mean(const float* distances, float* out, int64_t rows, int64_t count, int64_t k_min,
                   int64_t k_max, int threads) {
  constexpr int64_t kRows = 256;
  parallel_for((rows + kRows - 1) / kRows, threads, [&](int64_t task, int) {
    const int64_t end = (task + 1) * kRows < rows ? (task + 1) * kRows : rows;
    for (int64_t row = task * kRows; row < end; ++row) {
      out[row] = interval_mean_row(distances + row * count, count, k_min, k_max);
    }
  });
}

}  // namespace musc
