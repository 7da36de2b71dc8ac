// The exact distances of patches to one image: what the second pass does with an image it looks at.
//
// A batch of patches goes through each step together, as flat lists of (patch, candidate): the next
// rows can be fetched while one is worked on, and nothing waits for the outcome of one patch.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/search.hpp"

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

// A patch of the query image, and the squared distance beyond which nothing matters.
struct Wanted {
  int32_t patch;
  float worst;
};

class Examiner {
 public:
  Examiner(const Isa& isa, const Operands& queries, const Operands& references,
           const SearchShape& shape, const RefineArgs& args, const Bounds* segment_bounds);

  // hits[n]: the nearest patch of the image of `column` to wanted[n], if it is not farther than
  // wanted[n].worst; patch -1 if it is. `worst` is infinite for all of them or for none.
  void examine(int64_t image, int64_t column, const Wanted* wanted, int64_t count, Hit* hits);

  // The reference image that a query's column stands for.
  int64_t image_of(int64_t image, int64_t column) const {
    return args_.images == nullptr
               ? column
               : args_.images[(image - args_.begin) * args_.columns + column];
  }
  // The least t >> shift of every segment of an image, for the rows of the query image.
  const uint16_t* best(int64_t image, int64_t column) const {
    return args_.best + ((image - args_.first) * args_.columns + column) * segments_ * q_.padded;
  }
  // The largest integer -score of a candidate within `reach` (a distance, rho and all).
  int64_t limit(double reach) const {
    const double t = reach * inverse_ * (reach * inverse_) * 0.5 + 1.0;
    return t < 2147483646.0 ? static_cast<int64_t>(t) : std::numeric_limits<int32_t>::max();
  }
  // A computed squared distance as a bound on true ones: above it, the computed one is larger too.
  double distance(float square) const {
    return square == kInfinity
               ? 1e30
               : std::sqrt(static_cast<double>(square)) * shape_.stretch + 1e-18;
  }
  int64_t counters[6] = {};

 private:
  static constexpr int64_t kBatch = 32;

  // What a batch is about.
  struct Batch {
    int64_t image, j, column;
    const Wanted* wanted;
    int64_t count;
    Hit* hits;
    bool fresh;  // nothing is known yet: worst is infinite
  };

  void gather_segments(const Batch& batch);
  int64_t scan(const Batch& batch, int64_t n, int64_t segment, int32_t* scores);
  void start(const Batch& batch);
  void look_at_best(const Batch& batch, int64_t n);
  void collect(const Batch& batch);
  void choose(const Batch& batch, int64_t n, int64_t segment, const int32_t* scores);
  void look_closer(const Batch& batch);
  void look_at_rest(const Batch& batch);
  void recompute(const Batch& batch);
  void improve(Hit* hit, float square, int64_t patch) const {
    if (square < hit->square ||
        (square == hit->square && (hit->patch < 0 || patch < hit->patch))) {
      hit->square = square;
      hit->patch = static_cast<int32_t>(patch);
    }
  }
  int64_t width(int64_t segment) const {
    const int64_t left_over = r_.padded - segment * shape_.segment;
    return left_over < shape_.segment ? left_over : shape_.segment;
  }
  const Bounds& bounds_of(const Batch& batch, int64_t n) const {
    return q_.bounds[batch.image * q_.rows + batch.wanted[n].patch];
  }
  Picks picks() const { return {rows_.data(), others_.data(), candidates_}; }
  void move(int64_t from, int64_t to) {
    slots_[static_cast<size_t>(to)] = slots_[static_cast<size_t>(from)];
    rows_[static_cast<size_t>(to)] = rows_[static_cast<size_t>(from)];
    others_[static_cast<size_t>(to)] = others_[static_cast<size_t>(from)];
  }

  const Isa& isa_;
  const Operands& q_;
  const Operands& r_;
  const SearchShape& shape_;
  const RefineArgs& args_;
  const Bounds* segment_bounds_;  // the largest of each, [references][segments]
  const int64_t segments_, batch_;
  const double inverse_, fine_inverse_;
  std::vector<uint16_t> t_;                   // [segments][kBatch]
  int64_t first_[kBatch] = {};                // the segment of best score
  double reach_[kBatch] = {};                 // what is known: no candidate beyond it matters
  std::vector<int32_t> scores_, spare_;       // [kBatch][segment], of first_; [segment]
  std::vector<int32_t> chosen_;               // of one segment
  std::vector<int32_t> slots_, rows_, others_;  // candidates: n, query patch, reference patch
  std::vector<int32_t> squares_, rests_;
  std::vector<float> distances_;
  int64_t candidates_ = 0;
};

}  // namespace musc
