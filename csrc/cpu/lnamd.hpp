// LNAMD for all degrees in one go: LayerNorm over the image, r x r means with zero padding, L2 norm.
#pragma once

#include <cstdint>

#include "cpu/kernels.hpp"

namespace musc {

struct LnamdArgs {
  const float* tokens;  // [images][height * width][channels]
  int64_t images, height, width, channels;
  const int64_t* degrees;  // odd
  int64_t degree_count;
  float* const* out;  // per degree, [images][height * width][channels]
  int threads;
};

void lnamd(const Isa& isa, const LnamdArgs& args);

}  // namespace musc
