// The certified search: rounded operands, the best integer score of every (patch, image, segment),
// and the recomputation of what could matter.
//
// The bound. With x' = x - mean, V orthonormal [C, m] and R = I - V V^T, the map x -> (V^T x', |R x'|)
// is 1-Lipschitz: |V^T(x - y)|^2 + (|R x'| - |R y'|)^2 <= |V^T(x - y)|^2 + |R(x - y)|^2 = |x - y|^2.
// So is clipping the value, channel by channel, to what the levels reach, +-127 s: a projection on a
// convex set. With w_x the clipped value, q_x = round(w_x / s) and rho_x >= |w_x - s q_x|, the
// triangle inequality gives
//     |x - y| >= s |q_x - q_y| - rho_x - rho_y.
// What a row loses to clipping thus needs no allowance, it is only out of sight: s may suit the many
// rows, not those farthest out.
// rho also carries every floating error: see quantise(). `stretch` covers what V lacks in
// orthonormality and the rounding of the exact distances.
//
// Two closer looks, at what that leaves: the same vector w in 12 bits instead of 8 (`fine`), and
// R x' itself in 8 bits (`rest`), which replaces the difference of tail norms:
//     |x - y|^2 >= (|V^T(x - y)| known within rho)^2 + (|R(x - y)| known within its rho)^2,
// each clipped to its own levels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.hpp"

namespace musc {

// An int64_t as the standard library counts.
inline size_t sized(int64_t count) { return static_cast<size_t>(count); }

struct QuantiseArgs {
  const float* x;       // [images][rows][channels]
  const float* mean;    // [channels]
  const float* basis;   // [panels][channels][16], columns beyond `prefix` zero; null: all channels,
  const float* signs;   // rotated with these, [2][size]: whole.hpp
  int64_t images, rows, channels, prefix;
  bool tail;            // the norm of what the basis leaves out becomes one more channel
  float tail_centre;
  double scale;
  double basis_error;   // bound on |V^T V - I|
  int elements;         // per word
  int64_t words, padded;
  uint32_t* left;       // [images][padded][words]
  uint32_t* right;      // [images][padded / 16][words][16]
  int32_t* left_init;   // [images][padded]
  int32_t* right_init;  // [images][padded]
  Bounds* bounds;       // [images][rows]
  float* deltas;        // [images][padded / 16]: see least_score
  int threads;
  // The closer looks; fine may be null (none), and so may rest (no tail). Strides in elements.
  int16_t* fine;        // [images][rows][fine_stride], zero beyond the channels
  int64_t fine_stride;
  double fine_scale;
  int64_t fine_levels;  // the largest, to either side
  const float* back;    // [C panels][prefix][16]: V^T
  int8_t* rest;         // [images][rows][rest_stride]: R x', zero beyond the channels
  int64_t rest_stride;
  double rest_scale;
};

// Fills the operands of `images` images.
void quantise(const Isa& isa, const QuantiseArgs& args);

// out = (x - mean) . basis in fp32: the products that the choice of a space needs.
struct MultiplyArgs {
  const float* x;      // [rows][channels]
  const float* mean;   // [channels]
  int64_t rows, channels;
  const float* basis;  // [panels][channels][16]
  int64_t panels;
  float* out;          // [rows][panels * 16]
  int threads;
};

void multiply(const Isa& isa, const MultiplyArgs& args);

// A distance in steps, for least_score(): a little enlarged.
constexpr float kFarthest = 65536.0f;  // steps; beyond every score
inline float steps_of(double distance, double inverse) {
  const double steps = distance * inverse;
  return steps < kFarthest ? static_cast<float>(steps) * kWider : kFarthest;
}

// Images of one side of the search, as quantise() left them.
struct Operands {
  const uint32_t* left;
  const uint32_t* right;
  const int32_t* left_init;
  const int32_t* right_init;
  const Bounds* bounds;
  const float* deltas;
  const float* x;
  int64_t rows, padded;
  const int16_t* fine;
  const int8_t* rest;
};

struct SearchShape {
  int64_t words, channels, segment;
  int shift;
  double scale, stretch;
  int threads;
  int64_t fine_stride, rest_stride;  // 0: there is none
  double fine_scale, rest_scale;
  double largest_rho;                // of all rows
  double ratio;                      // of a distance to that in the space, as a rule: a guess
};

// The pairs to search: query i, its column of best, reference j, and the column of j's own best that
// the same tile fills, or -1. best[i - first][column] is a summary (SummaryAt) of i's rows and j's
// segments; back, the other way round, from reference back_first on. Within a batch back is best.
struct PairsArgs {
  const int32_t* pairs;  // [pair_count][4]
  int64_t pair_count;
  int64_t first, columns;
  uint16_t* best;
  int64_t back_first, back_columns;
  uint16_t* back;
};

// A summary (SummaryAt) into `best` of scores [segments][padded] of rows; [rows] bounds.
void summarise(const Isa& isa, const uint16_t* scores, int64_t segments, int64_t padded,
               int64_t rows, const Bounds* bounds, double rho, double scale, double ratio,
               int shift, uint16_t* best);

void search_pairs(const Isa& isa, const Operands& queries, const Operands& references,
                  const SearchShape& shape, const PairsArgs& args);

// The plain search in fp32 or bf16, without bounds: best[i][j] = least |x - y|^2 / 2 as the inner
// products see it, [padded rows of i], for i != j; one tile serves (i, j) and (j, i).
struct PlainArgs {
  const uint32_t* left;   // [images][padded][words]
  const uint32_t* right;  // [images][padded / 16][words][16]
  const float* init;      // [images][padded]: -|x|^2 / 2, padding far below
  int64_t images, words, padded, segment;
  int64_t begin, end;     // the pairs to do, of images * (images - 1) / 2 in order
  float* best;            // [images][images][segments][padded]
  int threads;
};

void search_plain(const FloatKernel& kernel, const PlainArgs& args);

struct RefineArgs {
  int64_t first;          // query image of best[0]
  int64_t begin, end;     // query images to finish now
  int64_t references;     // images on the other side
  // The references that a query is compared with: those listed, [columns] from images[i - begin]
  // on, or null: all of them, but for image i itself where the queries are the references.
  int64_t columns;
  const int32_t* images;
  bool symmetric;
  bool certified;         // false: fixed candidates, no bound
  int64_t k_min, k_max;
  const uint16_t* best;
  float* means;           // [end - begin][rows], or null
  float* distances;       // [end - begin][rows][columns], or null: then k_max is all of them
  float* nearest;         // [end - begin][rows][k_max] ascending, or null
  int64_t* nearest_image;
  int64_t* nearest_patch;
  int64_t* counters;      // [6]: images examined, segments scanned, distances recomputed,
                          // rows, fine looks, looks at the rest
};

void refine(const Isa& isa, const Operands& queries, const Operands& references,
            const SearchShape& shape, const RefineArgs& args);

}  // namespace musc
