// The exact distance of a patch to one image: what the second pass does with an image it looks at.
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

class Examiner {
 public:
  Examiner(const Isa& isa, const Operands& queries, const Operands& references,
           const SearchShape& shape, const RefineArgs& args, const Bounds* segment_bounds)
      : isa_(isa), q_(queries), r_(references), shape_(shape), args_(args),
        segment_bounds_(segment_bounds),
        segments_((references.padded + shape.segment - 1) / shape.segment),
        inverse_(1.0 / shape.scale),
        fine_inverse_(shape.fine_stride != 0 ? 1.0 / shape.fine_scale : 0.0),
        scores_(static_cast<size_t>(shape.segment)),
        chosen_(static_cast<size_t>(shape.segment + kPanel)),
        squares_(static_cast<size_t>(shape.segment)),
        rests_(static_cast<size_t>(shape.segment)) {}

  // The nearest patch of the image of `column`, if it is not farther than `worst` (a squared
  // distance); patch -1 where all are.
  Hit examine(int64_t image, int64_t p, int64_t column, float worst);

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
  int64_t scan(int64_t image, int64_t p, int64_t j, int64_t segment);
  void examine_segment(int64_t row, int64_t j, int64_t segment, int64_t width, Hit* hit);
  int64_t closer(int64_t row, int64_t j, int64_t segment, int64_t count, double bound);
  void look_at_best(int64_t row, int64_t j, int64_t segment, int64_t width, Hit* hit);
  void prefetch(const float* row) const {  // enough for the hardware to see where it goes
    const char* at = reinterpret_cast<const char*>(row);
    for (int64_t line = 0; line < 8 && line * 16 < shape_.channels; ++line) {
      __builtin_prefetch(at + line * 64);
    }
  }

  const Isa& isa_;
  const Operands& q_;
  const Operands& r_;
  const SearchShape& shape_;
  const RefineArgs& args_;
  const Bounds* segment_bounds_;  // the largest of each, [references][segments]
  const int64_t segments_;
  const double inverse_, fine_inverse_;
  std::vector<int32_t> scores_, chosen_, squares_, rests_;
};

}  // namespace musc
