// LNAMD on a GPU: what the kernel takes. Nothing here needs CUDA headers.
#pragma once

#include <cstdint>

namespace musc::cuda {

// Tokens [N, H W, C] float32 on 16 bytes, stride 1 along C; C divides by 4 and is at most 2048, the
// other strides divide by 4, and H W tokens span less than 2^31 floats.
struct Tokens {
  const float* x;
  int64_t stride_n;
  int64_t stride_p;
  double* sums;    // [N, 4, count_tiles()]: sum, sum of squares, least and greatest value of a part
  int32_t* count;  // [1 + N], zeros: blocks that have started, and parts summed of each image
  float* out_1;    // [N, H W, C] of degrees 1, 3 and 5; null where not wanted, but not all three
  float* out_3;
  float* out_5;
  int images;
  int height;
  int width;
  int channels;
  int rows;  // of the grid that a block walks down, at least 1
  int lag;   // images between the sums of an image and its aggregation, at least 1
};

// How many blocks share an image.
int count_tiles(int height, int width, int channels, int rows);

// Launches on `stream` and returns a cudaError_t (0: success).
int aggregate_neighbourhoods(const Tokens& tokens, void* stream);

}  // namespace musc::cuda
