// The mean of an interval of sorted values on a GPU: what the kernel takes, without CUDA headers.
#pragma once

#include <cstdint>

namespace musc::cuda {

// Rows of x [B, R, M] float32 without NaN, strides counted in floats; 0 <= k_min < k_max <= M.
struct Rows {
  const float* x;
  float* out;  // [B, R]
  int64_t stride_b;
  int64_t stride_r;
  int64_t stride_m;
  int batch;
  int rows;     // R
  int columns;  // M, at most kMostColumns
  int k_min;
  int k_max;
  bool squared;  // the mean is of the roots of x
  bool kth;      // the value at place k_max - 1 instead of the mean
};

constexpr int kMostColumns = 1664;

// Launches on `stream` and returns a cudaError_t (0: success).
int average_interval(const Rows& rows, void* stream);

}  // namespace musc::cuda
