// LNAMD for all degrees in one go: LayerNorm over the image, r x r means with zero padding, L2
// norm.
#pragma once

#include <cstdint>

#include "cpu/kernel_table.hpp"

namespace musc {

struct LnamdArgs {
  const float* tokens = nullptr;  // [images][height * width][channels]
  int64_t images = 0, height = 0, width = 0, channels = 0;
  const int64_t* degrees = nullptr;  // odd
  int64_t degree_count = 0;
  float* const* out = nullptr;  // per degree, [images][height * width][channels]
  int threads = 1;
};

void lnamd(const KernelTable& kernels, const LnamdArgs& args);

}  // namespace musc
