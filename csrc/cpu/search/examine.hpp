// Examining an image: the exact distances of some patches to their nearest patch of that image.
//
// The patches, of several query images, go through each step together, segment by segment of the
// image, as flat lists of (patch, candidate): the rows of a segment stay in the nearest caches, the
// rows needed next are prefetched, and no step waits for the outcome of a single patch.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/search/search.hpp"
#include "cpu/search/summary.hpp"

namespace musc {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Hit {
  float square;  // computed |x - y|^2
  int32_t column, patch;
  bool operator<(const Hit& other) const {
    if (square != other.square) return square < other.square;
    return column < other.column;
  }
};

constexpr int64_t kMostRows = 5632;  // the most patches of a question, whole words of bits

// A patch whose nearest patch is asked for.
struct Wanted {
  int32_t image, patch;  // image: counted from the question's first image
  float worst;           // squared distance: farther candidates do not matter
  float limit_distance;  // Examiner::distance(worst)
  int32_t segment;  // where the patch's best score lies, scanned first; -1: no such start, only
                    // candidates within `worst` are reported
};

// A question about one reference image: that of `column`, which is the same for the `images` query
// images from `image` on. It concerns some of their patches [begin, begin + rows); begin is a
// multiple of kLanes.
struct Question {
  int64_t image, images, column, begin, rows;
  const Wanted* wanted;
  int64_t count;
  Hit* hits;  // [count]: the answers
};

class Examiner {
 public:
  Examiner(const KernelTable& kernels, const RoundedImages& queries,
           const RoundedImages& references, const SearchShape& shape, const RefineArgs& args);

  // Sets hits[n] to the nearest patch of the reference image to wanted[n]; its patch is -1 where
  // that is farther than wanted[n].worst. Either all wanted patches have a segment to start from,
  // or none.
  void examine(const Question& question);

  // The reference image in a column of a query image.
  int64_t image_of(int64_t image, int64_t column) const {
    return args_.reference_lists == nullptr
               ? column
               : args_.reference_lists[(image - args_.begin) * args_.best.columns + column];
  }
  Summary summary(int64_t image, int64_t column) const {
    const int64_t at = (image - args_.best.first) * args_.best.columns + column;
    return {args_.best.data + at * summary_size(q_.rows, segments_), q_.rows, segments_};
  }
  // The largest -score of a candidate within a distance that includes both rounding errors.
  int64_t limit(double distance) const {
    const double t = distance * inverse_ * (distance * inverse_) * 0.5 + 1.0;
    return t < 2147483646.0 ? static_cast<int64_t>(t) : std::numeric_limits<int32_t>::max();
  }
  // The limit of true distances for a computed squared distance: of a candidate beyond the limit,
  // the computed squared distance is larger too. 1e-7 covers the rounding to float.
  float distance(float square) const {
    return square == kInfinity ? 1e30f
                               : static_cast<float>(std::sqrt(static_cast<double>(square)) *
                                                        shape_.stretch * (1.0 + 1e-7) + 1e-18);
  }
  // Prefetches the part of a summary that an examination of the patches [begin, begin + rows)
  // reads.
  void fetch_summary(int64_t image, int64_t column, int64_t begin, int64_t rows) const;
  Counters counters;

 private:
  static constexpr int64_t kBatch = 32;
  static constexpr int64_t kTogether = 8;  // rows of a scan

  void start_all();
  void start(const int32_t* batch, int64_t count);
  void look_at_best(const int32_t* batch, int64_t count);
  void collect();
  void sort_rows(int64_t words);
  void fetch_rows(const int32_t* batch, int64_t count) const;
  void scan(const int32_t* batch, int64_t count, int64_t segment, int32_t* scores);
  void take_chosen(int64_t n, int64_t segment, const uint16_t* masks);
  void flush();
  void look_closer();
  void recompute();
  void improve(int64_t n, float square, int64_t patch) {
    Hit& hit = ask_.hits[n];
    if (square < hit.square || (square == hit.square && (hit.patch < 0 || patch < hit.patch))) {
      hit.square = square;
      hit.patch = static_cast<int32_t>(patch);
      limit_distance_[sized(n)] = distance(square);
    }
  }
  int64_t width(int64_t segment) const {
    const int64_t left_over = r_.padded - segment * shape_.segment;
    return left_over < shape_.segment ? left_over : shape_.segment;
  }
  // The row of wanted patch n, counted from the first query image's first row.
  int64_t row_of(int64_t n) const {
    return ask_.wanted[n].image * q_.rows + ask_.wanted[n].patch;
  }
  const Bounds& bounds_of(int64_t n) const {
    return q_.bounds[ask_.image * q_.rows + row_of(n)];
  }
  // The bit of wanted patch n in words of bits for the rows of all query images.
  int64_t place_of(int64_t n) const {
    return ask_.wanted[n].image * lanes_of(ask_.rows) + ask_.wanted[n].patch - ask_.begin;
  }
  // The arguments of least_score() for wanted patch n and the panels of a segment.
  float row_limit(int64_t n) const {
    return steps_of(static_cast<double>(limit_distance_[sized(n)]) + bounds_of(n).rho, inverse_);
  }
  const float* panel_errors(int64_t segment) const {
    return r_.panel_errors + (j_ * r_.padded + segment * shape_.segment) / kPanel;
  }
  void add(int64_t n, int64_t patch) {
    const auto at = sized(candidates_++);
    slots_[at] = static_cast<int32_t>(n);
    rows_[at] = static_cast<int32_t>(row_of(n));
    others_[at] = static_cast<int32_t>(patch);
  }
  Picks picks() const { return {rows_.data(), others_.data(), candidates_}; }

  const KernelTable& kernels_;
  const RoundedImages& q_;
  const RoundedImages& r_;
  const SearchShape& shape_;
  const RefineArgs& args_;
  const int64_t segments_;
  const double inverse_;
  Question ask_{};
  int64_t j_ = 0;      // the reference image
  bool fresh_ = true;  // no distance is known yet: the segments of best score come first
  std::vector<float> limit_distance_;         // [n]: farther candidates do not matter
  std::vector<int32_t> slot_of_;              // n by the bit of its row
  std::vector<uint32_t> whole_, some_, few_;  // bits of rows: see sort_rows()
  std::vector<int32_t> ordered_, ends_;       // n by segment of best score; [segments + 1]
  const int64_t mask_stride_;                 // panels of a segment, in whole groups of 64 bits
  std::vector<int32_t> scores_;               // [kBatch][segment], of a batch
  std::vector<uint16_t> masks_;               // [kBatch][mask_stride]: bits of scores within limits
  std::vector<uint32_t> block_;               // [kTogether][words], of a scan
  std::vector<int32_t> least_;                // [kTogether][mask_stride], of a scan
  std::vector<int32_t> found_;                // n of the rows that scan a segment
  std::vector<int32_t> slots_, rows_, others_;  // candidates: n, row_of(n), reference patch
  std::vector<int32_t> squares_, dots_;
  std::vector<float> distances_;
  int64_t candidates_ = 0;
};

}  // namespace musc
