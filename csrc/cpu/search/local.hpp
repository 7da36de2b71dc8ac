// Local matching: the distance of every patch to the nearest patch of another image among those
// within `reach` places of its own (Chebyshev distance on the grid), and the interval mean.
//
// Two ways give the same bits. `match_places` compares rounded rows that lie by place: row i of
// "image" p is the patch at place p of image i. So all images at a place against all images at a
// place nearby is one small matrix product, and nothing is compared in vain. A bound of
// csrc/cpu/search/search.hpp then tells which few distances to compute exactly. `match_directly`
// computes all of them exactly; it needs no rounding, which pays for very few queries.
#pragma once

#include <cstdint>

#include "cpu/search/search.hpp"

namespace musc {

// The grid of patches, and how far from a patch's own place its candidates lie.
struct LocalGrid {
  int64_t height = 0, width = 0, reach = 0;

  int64_t first(int64_t at) const { return at > reach ? at - reach : 0; }
  int64_t last(int64_t at, int64_t size) const {
    return reach < size - 1 - at ? at + reach : size - 1;
  }
};

// What is asked for: of the images [begin, end), against `columns` images each.
struct LocalArgs {
  LocalGrid grid;
  int64_t begin = 0, end = 0;
  int64_t first_row = 0, last_row = 0;  // the rows of the grid to finish
  // The images that each is compared with, [end - begin][columns]; null: all, and where
  // `symmetric`, except the image itself, whose distance is infinite.
  const int32_t* reference_lists = nullptr;
  int64_t columns = 0;
  bool symmetric = false;
  bool certified = true;  // false: of each image the candidate of best score alone
  int64_t k_min = 0, k_max = 0;
  float* means = nullptr;      // [end - begin][places], or null
  float* distances = nullptr;  // [end - begin][places][columns], or null; without lists
  int threads = 1;
};

// Rounded rows by place: `images` places from the first place of grid row `row` on.
struct PlacedRows {
  const RoundedImages& rounded;
  int64_t row;
};

// Returns how many exact distances were computed.
int64_t match_places(const KernelTable& kernels, const PlacedRows& queries,
                     const PlacedRows& references, const SearchShape& shape,
                     const LocalArgs& args);

// x: [images][places][channels]; y: the references, likewise.
void match_directly(const KernelTable& kernels, const float* x, const float* y, int64_t channels,
                    const LocalArgs& args);

}  // namespace musc
