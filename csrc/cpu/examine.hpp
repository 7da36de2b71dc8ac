// The exact distances of patches to one image: what the second pass does with an image it looks at.
//
// The patches, of several query images, go through each step together, segment by segment of the
// image, as flat lists of (patch, candidate): a segment's rows stay in the nearest caches, the next
// ones can be fetched while one is worked on, and nothing waits for the outcome of one patch.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/search.hpp"
#include "cpu/summary.hpp"

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

constexpr int64_t kMostRows = 5632;  // patches of a question's query images: whole words of bits

// A patch of one of the query images, the squared distance beyond which nothing matters, and the
// segment of best score, to start from; -1: nothing is asked for but what is not beyond `worst`.
struct Wanted {
  int32_t image, patch;  // image: counted from the question's first
  float worst, reach;    // reach: Examiner::distance(worst)
  int32_t segment;
};

// What is asked about one reference image: for the patches [begin, begin + rows) of some query images
// from `image` on; begin is a multiple of kLanes. The images' references of that column are the same.
struct Question {
  int64_t image, images, column, begin, rows;
  const Wanted* wanted;
  int64_t count;
  Hit* hits;  // [count]: what is found
};

class Examiner {
 public:
  Examiner(const Isa& isa, const Operands& queries, const Operands& references,
           const SearchShape& shape, const RefineArgs& args);

  // hits[n]: the nearest patch of the image of `column` to wanted[n], if it is not farther than
  // wanted[n].worst; patch -1 if it is. All of them have a segment to start from, or none.
  void examine(const Question& question);

  // The reference image that a query's column stands for.
  int64_t image_of(int64_t image, int64_t column) const {
    return args_.images == nullptr
               ? column
               : args_.images[(image - args_.begin) * args_.columns + column];
  }
  Summary summary(int64_t image, int64_t column) const {
    const int64_t at = (image - args_.first) * args_.columns + column;
    return {args_.best + at * summary_size(q_.rows, segments_), q_.rows, segments_};
  }
  // The largest integer -score of a candidate within `reach` (a distance, rho and all).
  int64_t limit(double reach) const {
    const double t = reach * inverse_ * (reach * inverse_) * 0.5 + 1.0;
    return t < 2147483646.0 ? static_cast<int64_t>(t) : std::numeric_limits<int32_t>::max();
  }
  // A computed squared distance as a bound on true ones: above it, the computed one is larger too.
  // 1e-7 covers the rounding to float.
  float distance(float square) const {
    return square == kInfinity ? 1e30f
                               : static_cast<float>(std::sqrt(static_cast<double>(square)) *
                                                        shape_.stretch * (1.0 + 1e-7) + 1e-18);
  }
  // Asks for what an examination of the patches [begin, begin + rows) will read of a summary.
  void fetch_summary(int64_t image, int64_t column, int64_t begin, int64_t rows) const;
  int64_t counters[6] = {};

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
      reach_[sized(n)] = distance(square);
    }
  }
  int64_t width(int64_t segment) const {
    const int64_t left_over = r_.padded - segment * shape_.segment;
    return left_over < shape_.segment ? left_over : shape_.segment;
  }
  // A patch among the rows from the first query image on.
  int64_t row_of(int64_t n) const {
    return ask_.wanted[n].image * q_.rows + ask_.wanted[n].patch;
  }
  const Bounds& bounds_of(int64_t n) const {
    return q_.bounds[ask_.image * q_.rows + row_of(n)];
  }
  // Its place in bits for the rows of all images.
  int64_t place_of(int64_t n) const {
    return ask_.wanted[n].image * lanes_of(ask_.rows) + ask_.wanted[n].patch - ask_.begin;
  }
  // What a patch and the panels of a segment bring to least_score().
  float slope(int64_t n) const {
    return steps_of(static_cast<double>(reach_[sized(n)]) + bounds_of(n).rho, inverse_);
  }
  const float* deltas(int64_t segment) const {
    return r_.deltas + (j_ * r_.padded + segment * shape_.segment) / kPanel;
  }
  void add(int64_t n, int64_t patch) {
    const auto at = sized(candidates_++);
    slots_[at] = static_cast<int32_t>(n);
    rows_[at] = static_cast<int32_t>(row_of(n));
    others_[at] = static_cast<int32_t>(patch);
  }
  Picks picks() const { return {rows_.data(), others_.data(), candidates_}; }

  const Isa& isa_;
  const Operands& q_;
  const Operands& r_;
  const SearchShape& shape_;
  const RefineArgs& args_;
  const int64_t segments_;
  const double inverse_;
  Question ask_{};
  int64_t j_ = 0;      // the reference image
  bool fresh_ = true;  // nothing is known yet: the segments of best score come first
  std::vector<float> reach_;                  // what is known: no candidate beyond it matters
  std::vector<int32_t> slot_of_;              // n of the rows that are wanted
  std::vector<uint32_t> whole_, some_, few_;  // bits of rows: see sort_rows()
  std::vector<int32_t> ordered_, ends_;       // n by segment of best score; [segments + 1]
  const int64_t mask_stride_;                 // panels of a segment, and to a whole 64 bits
  std::vector<int32_t> scores_;               // [kBatch][segment], of a batch
  std::vector<uint16_t> masks_;               // [kBatch][mask_stride], what of them is in reach
  std::vector<uint32_t> block_;               // [kTogether][words], of a scan
  std::vector<int32_t> least_;                // [kTogether][mask_stride], of a scan
  std::vector<int32_t> found_;                // n whose rows are to be scanned there
  std::vector<int32_t> slots_, rows_, others_;  // candidates: n, row_of(n), reference patch
  std::vector<int32_t> squares_, dots_;
  std::vector<float> distances_;
  int64_t candidates_ = 0;
};

}  // namespace musc
