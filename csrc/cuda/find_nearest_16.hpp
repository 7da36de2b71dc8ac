// The search over all channels on a GPU, of 16-bit values. Nothing here needs CUDA headers.
#pragma once

#include <cstdint>

namespace musc::cuda {

// Images x [N, P, K] against images y [M, Q, K], float16 or bfloat16, K a multiple of 8. Image j of y
// is image `first` + j of `all`; keys are [N, all, P] int64, a key is (bits of the squared distance,
// its lowest 8 bits cleared) << 32 | patch of y. With `triangle` x and y are the same images, and a
// pair i < j is multiplied once.
struct Pairs16 {
  const void* x;
  const void* y;
  const float* x_norms;  // [N, P] squared norms
  const float* y_norms;  // [M, Q]
  int64_t* keys;
  int images;         // N
  int others;         // M
  int patches;        // P
  int other_patches;  // Q
  int channels;       // K
  int all;
  int first;
  bool triangle;
  bool bfloat;
};

// Lowers the keys on `stream`; returns a cudaError_t (0: success).
int find_nearest_16(const Pairs16& pairs, void* stream);

}  // namespace musc::cuda
