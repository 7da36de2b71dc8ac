// Distances of the winners of the search, from the original rows. Nothing here needs CUDA headers.
#pragma once

#include <cstdint>

namespace musc::cuda {

// Patch p of image i against its winner in each of the images `first` to `first` + held - 1, which y
// holds. A winner is passed over (out = +inf) where its bound says that the image does not matter.
struct Winners {
  const float* x;         // [images, patches, channels]
  const float* y;         // [held, other_patches, channels]
  const int64_t* keys;    // [images, others, patches], see Pairs
  const float* kth;       // [images, patches], or null: every winner matters
  const float* x_errors;  // [images, patches]
  const float* y_errors;  // [others]
  const float* error;     // one value
  float* out;             // [images, others, patches], squared distances
  int images;
  int held;
  int others;
  int patches;
  int other_patches;
  int channels;  // a multiple of 4, from 68 to 1024
  int first;
  float scale_squared;  // of the search's distances
  bool integers;        // the keys hold integers, not floats
  bool certified;       // compare lower bounds with kth, else the search's distances
};

// Launches on `stream` and returns a cudaError_t (0: success).
int recompute_winners(const Winners& winners, void* stream);

}  // namespace musc::cuda
