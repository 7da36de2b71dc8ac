// The interval mean: the mean of sorted(x)[k_min:k_max] along the last axis, without sorting.
#pragma once

#include <cstdint>

namespace musc {

// The mean of the values of ranks k_min..k_max-1 among x[0..count), 0 <= k_min < k_max <= count.
// No NaN. +inf sorts last; a mean that includes one is +inf.
float interval_mean_row(const float* x, int64_t count, int64_t k_min, int64_t k_max);

// distances [rows, count] -> out [rows].
void interval_mean(const float* distances, float* out, int64_t rows, int64_t count, int64_t k_min,
                   int64_t k_max, int threads);

}  // namespace musc
