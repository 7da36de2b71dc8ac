// The plain search: what the certified search is compared with.
#pragma once

#include "bench/kernels.hpp"

namespace musc {

// For all images i != j and every row of i: best[i][j] = the least |x - y|^2 / 2 over the rows of
// j, by inner products in fp32 or bf16, without bounds. One tile serves the pairs (i, j) and (j,
// i).
struct PlainArgs {
  const uint32_t* left = nullptr;   // [images][padded][words]
  const uint32_t* right = nullptr;  // [images][padded / 16][words][16]
  const float* init = nullptr;      // [images][padded]: -|x|^2 / 2, padding far below
  int64_t images = 0, words = 0, padded = 0, segment = 0;
  int64_t begin = 0, end = 0;  // pairs to do, of images * (images - 1) / 2 in order
  float* best = nullptr;       // [images][images][segments][padded]
  int threads = 1;
};

void search_plain(const FloatKernel& kernel, const PlainArgs& args);

}  // namespace musc
