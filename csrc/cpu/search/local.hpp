// Local matching: the distance of every patch to the nearest patch of another image among those
// within `reach` places of its own (Chebyshev distance on the grid), and the interval mean.
//
// Two ways give the same bits. `match_places` compares rows that are rounded to 16 bits in all
// channels and lie by place: all images at a place against all images at a place nearby is one
// small matrix product, and nothing is compared in vain. Of every patch and image the three best
// scores are kept, and their bounds from both sides tell which few distances to compute exactly.
// `match_directly` computes all of them exactly; it needs no rounding, which pays for very few
// queries.
#pragma once

#include <cstdint>

#include "cpu/search/search.hpp"

namespace musc {

// The grid of patches, and how far from a patch's own place its candidates lie.
struct LocalGrid {
  int64_t height = 0, width = 0, reach = 0;

  int64_t places() const { return height * width; }
  int64_t first(int64_t at) const { return at > reach ? at - reach : 0; }
  int64_t last(int64_t at, int64_t size) const {
    return reach < size - 1 - at ? at + reach : size - 1;
  }
  // The slots of a window, one for each place of it; those beyond the grid stay empty.
  int64_t reach_of(int64_t size) const { return reach < size ? reach : size - 1; }
  int64_t slots() const { return (2 * reach_of(height) + 1) * (2 * reach_of(width) + 1); }
};

// Rows by place, rounded to q = round((x - mean) / scale) in int16, two a word as PlaceKernels lay
// them, and padded to whole panels of images: those at the places of some rows of the grid.
struct PlacedRows {
  const float* x = nullptr;   // [images][places of the whole grid][channels]
  int64_t images = 0, padded = 0, channels = 0, words = 0;
  int64_t row = 0;            // the grid's row of the first place
  uint32_t* right = nullptr;  // [places][padded / 16][words][16]
  int32_t* init = nullptr;    // [places][padded]: -|q|^2 / 2, rounded up
  float* rho = nullptr;       // [places][padded]: at least |x - mean - scale q|
};

// Of |q|: |x - mean| of any row must not exceed kPlaceLevels - sqrt(channels) / 2 steps. Then
// |q - q'|^2 / 2 fits 32 bits, and no sum of a product overflows on the way.
constexpr int64_t kPlaceLevels = 32700;

struct PlaceArgs {
  PlacedRows rows;
  LocalGrid grid;
  int64_t first_row = 0, last_row = 0;  // the rows of the grid to round
  const float* mean = nullptr;
  float scale = 0.0f;
  int threads = 1;
};

// Rounds rows; returns at least the largest |x - mean|, by which the caller finds whether the scale
// was too fine: then the result is useless.
float place_rows(const KernelTable& kernels, const PlaceArgs& args);

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

// How rows were rounded.
struct PlaceScale {
  double scale = 0.0;
  double largest_rho = 0.0;  // of all rows of both sides
  bool both_ways = false;    // whether a product may serve both of its sides, which takes memory
};

// The most slots of a window, and the memory of either call beside the rows, in bytes.
constexpr int64_t kMostSlots = 1 << 20;
int64_t place_bytes(const LocalGrid& grid, int64_t images, int64_t references, int64_t words,
                    int threads, bool both_ways);

// Returns how many exact distances were computed.
int64_t match_places(const KernelTable& kernels, const PlacedRows& queries,
                     const PlacedRows& references, const PlaceScale& scale, const LocalArgs& args);

// x: [images][places][channels]; y: the references, likewise.
void match_directly(const KernelTable& kernels, const float* x, const float* y, int64_t channels,
                    const LocalArgs& args);

}  // namespace musc
