// The exact search: rounding images, the first pass (the best integer score of every patch in every
// segment of every image) and the second pass (exact distances of the few candidates that a bound
// leaves). docs/exact-search.md derives the bound, defines the words and draws the memory layout.
//
// In short: a row x is projected to w = (V^T(x - mean), |rest|) and rounded to s q with |w - s q|
// <= rho. The projection brings no two rows further apart, so
//     |x - y| >= s |q_x - q_y| - rho_x - rho_y. Clipping to +-127 s brings no two rows further
//     apart either, so the bound holds without a correction; s may suit typical rows, for outliers
//     the bound is weaker, never wrong. rho contains every floating error (round_row()); `stretch`
//     covers |V^T V - I| and the rounding of the exact distances.
//
// Two closer looks at candidates that the bound leaves: `fine`, the row w in 12 bits instead of 8,
// and `rest`, the residual x - mean - V V^T (x - mean) in 8 bits, instead of its norm alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernel_table.hpp"

namespace musc {

// An int64_t as the standard library counts.
inline size_t sized(int64_t count) { return static_cast<size_t>(count); }

// How rows are projected and rounded; musc_fast/backends/cpu/space.py chooses it.
struct SearchSpace {
  const float* mean = nullptr;   // [channels]
  // V: [panels][channels][16], columns beyond `prefix` zero; null: all channels, in a rotation.
  const float* basis = nullptr;
  const float* basis_transposed = nullptr;  // [C panels][prefix][16]; null: no rest
  const float* signs = nullptr;             // of the rotation, [2][size]: rotate_and_round.hpp
  int64_t channels = 0, prefix = 0;
  bool tail = false;  // the norm of the residual, less tail_centre, is one more channel
  float tail_centre = 0.0f;
  double scale = 0.0, basis_error = 0.0;      // basis_error: at least |V^T V - I|
  double fine_scale = 0.0, rest_scale = 0.0;  // fine_scale 0: no closer looks
  int64_t fine_levels = 0;                    // the largest fine value, to either side
};

// The images of one side of a search: their rows, and what quantise() makes of them.
struct RoundedImages {
  const float* x = nullptr;       // [images][rows][channels]
  int64_t rows = 0, padded = 0;   // rows of an image; rows in whole panels
  uint32_t* left = nullptr;       // [images][padded][words]
  uint32_t* right = nullptr;      // [images][padded / 16][words][16]
  int32_t* left_init = nullptr;   // [images][padded]
  int32_t* right_init = nullptr;  // [images][padded]
  Bounds* bounds = nullptr;       // [images][rows]
  float* panel_errors = nullptr;  // [images][padded / 16]: see least_score
  int16_t* fine = nullptr;        // [images][rows][fine_stride], zero beyond the channels, or null
  int8_t* rest = nullptr;         // [images][rows][rest_stride], zero beyond the channels, or null
};

struct QuantiseArgs {
  SearchSpace space;
  RoundedImages images;
  int64_t first = 0, count = 0;  // the images to round: [first, first + count)
  int elements = 0;              // per word
  int64_t words = 0, fine_stride = 0, rest_stride = 0;  // of a row; strides in elements
  int threads = 1;
};

void quantise(const KernelTable& kernels, const QuantiseArgs& args);

// out = (x - mean) . basis in fp32: the products that the choice of a space needs.
struct MultiplyArgs {
  const float* x = nullptr;      // [rows][channels]
  const float* mean = nullptr;   // [channels]
  const float* basis = nullptr;  // [panels][channels][16]
  float* out = nullptr;          // [rows][panels * 16]
  int64_t rows = 0, channels = 0, panels = 0;
  int threads = 1;
};

void multiply(const KernelTable& kernels, const MultiplyArgs& args);

// A distance in steps, for least_score(): a little enlarged.
constexpr float kFarthest = 65536.0f;  // steps; beyond every score
inline float steps_of(double distance, double inverse) {
  const double steps = distance * inverse;
  return steps < kFarthest ? static_cast<float>(steps) * kWider : kFarthest;
}

struct SearchShape {
  int64_t words = 0, channels = 0, segment = 0;
  int shift = 0;  // scores are stored as (-score) >> shift
  double scale = 0.0, stretch = 1.0;
  int threads = 1;
  int64_t fine_stride = 0, rest_stride = 0;  // 0: no such look
  double fine_scale = 0.0, rest_scale = 0.0;
  double largest_rho = 0.0;  // of all rows of both sides
  double ratio = 1.0;        // estimate: exact distance to distance of the rounded rows
};

// Summaries (SummaryAt) of query images, one for each of `columns` reference images:
// [images][columns].
struct Summaries {
  uint16_t* data = nullptr;
  int64_t first = 0, columns = 0;  // first: the image of data[0]
};

// The pairs to search, four numbers each: query i, the column of j among i's references, reference
// j, and the column of i among j's references, or -1. Each pair fills best[i][column] with a
// summary of i's rows against j's segments, and from the same tiles, unless its fourth number is
// -1, mirrored[j] with the summary of j's rows against i's segments. Where a batch is searched in
// itself, mirrored is best.
struct PairsArgs {
  const int32_t* pairs = nullptr;  // [pair_count][4]
  int64_t pair_count = 0;
  Summaries best, mirrored;
};

void search_pairs(const KernelTable& kernels, const RoundedImages& queries,
                  const RoundedImages& references, const SearchShape& shape, const PairsArgs& args);

// The best scores of an image's rows in the segments of another image, and its rows' bounds.
struct PairScores {
  const uint16_t* scores = nullptr;  // [segments][padded], and 32 more that can be read
  int64_t segments = 0, padded = 0, rows = 0;
  const Bounds* bounds = nullptr;  // [rows]
};

// Writes the summary (SummaryAt) of `scores` to `best`; of the shape it reads largest_rho, scale,
// ratio and shift.
void summarise(const KernelTable& kernels, const PairScores& scores, const SearchShape& shape,
               uint16_t* best);

// Where the results go, the row 0 of each being that of query `begin`; null: not wanted.
struct RefineOutputs {
  float* means = nullptr;      // [end - begin][rows]
  float* distances = nullptr;  // [end - begin][rows][columns]; then k_max is all of them
  float* nearest = nullptr;    // [end - begin][rows][k_max] ascending; with the image and patch:
  int64_t* nearest_image = nullptr;
  int64_t* nearest_patch = nullptr;
};

// What a second pass did, summed over its calls.
struct Counters {
  int64_t examined = 0;    // (row, image) pairs
  int64_t scanned = 0;     // (row, segment) pairs
  int64_t recomputed = 0;  // exact distances
  int64_t rows = 0;
  int64_t fine = 0, rest = 0;  // candidates that had the closer look
};

struct RefineArgs {
  int64_t begin = 0, end = 0;  // query images to finish in this call
  // The references of a query are those listed, [columns] from reference_lists[i - begin] on; null:
  // all of them, except image i itself where the queries are the references (`symmetric`).
  const int32_t* reference_lists = nullptr;
  bool symmetric = false;
  bool certified = true;  // false: a fixed number of candidates, no bound
  int64_t k_min = 0, k_max = 0;
  Summaries best;  // of the first pass
  RefineOutputs outputs;
  Counters* counters = nullptr;
};

void refine(const KernelTable& kernels, const RoundedImages& queries,
            const RoundedImages& references, const SearchShape& shape, const RefineArgs& args);

}  // namespace musc
