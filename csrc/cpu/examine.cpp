#include "cpu/examine.hpp"

#include <algorithm>

namespace musc {
namespace {

constexpr int kFastCandidates = 4;

}  // namespace

// Scores of one patch against one segment, into scores_; returns how many.
int64_t Examiner::scan(int64_t image, int64_t p, int64_t j, int64_t segment) {
  const int64_t begin = segment * shape_.segment;
  const int64_t width = std::min(shape_.segment, r_.padded - begin);
  const int64_t row = image * q_.padded + p;
  const uint32_t* left = q_.left + (row - p % kTileRows) * shape_.words + p % kTileRows;
  isa_.int8.scan(left, r_.right + (j * r_.padded + begin) * shape_.words, shape_.words,
                 width / kPanel, q_.left_init[row], r_.right_init + j * r_.padded + begin,
                 scores_.data());
  ++counters[1];
  return width;
}

// The closer looks at the `count` candidates chosen_: those that stay are moved to the front.
int64_t Examiner::closer(int64_t row, int64_t j, int64_t segment, int64_t count, double bound) {
  const Bounds& mine = q_.bounds[row];
  const Bounds& others = segment_bounds_[j * segments_ + segment];
  const int64_t base = j * r_.rows + segment * shape_.segment;
  const int16_t* x = q_.fine + row * shape_.fine_stride;
  const int16_t* y = r_.fine + base * shape_.fine_stride;
  isa_.fine_squares(x, y, shape_.fine_stride, chosen_.data(), count, squares_.data());
  counters[4] += count;
  const double rho = static_cast<double>(mine.fine) + others.fine;
  const double reach = (bound + rho) * (1.0 + 1e-12) * fine_inverse_;
  const double most = std::min(reach * reach, 2147483647.0);
  const int32_t limit = static_cast<int32_t>(most);
  int64_t kept = 0;
  for (int64_t n = 0; n < count; ++n) {
    const int32_t index = chosen_[n], square = squares_[n];
    chosen_[kept] = index;
    squares_[kept] = square;
    kept += square <= limit ? 1 : 0;
  }
  if (shape_.rest_stride == 0 || kept == 0) return kept;

  count = kept;
  isa_.rest_squares(q_.rest + row * shape_.rest_stride, r_.rest + base * shape_.rest_stride,
                    shape_.rest_stride, chosen_.data(), count, rests_.data());
  counters[5] += count;
  const double ceiling = bound * bound * (1.0 + 1e-12);
  const int32_t own = x[shape_.prefix];  // the tail norm, not part of the prefix
  kept = 0;
  for (int64_t n = 0; n < count; ++n) {
    const int32_t index = chosen_[n];
    const int32_t apart = own - y[index * shape_.fine_stride + shape_.prefix];
    const double prefix = std::sqrt(static_cast<double>(squares_[n] - apart * apart));
    const double tail = std::sqrt(static_cast<double>(rests_[n]));
    const Bounds& other = r_.bounds[base + index];
    const double a =
        std::max(0.0, prefix * shape_.fine_scale - (static_cast<double>(mine.fine) + other.fine));
    const double b =
        std::max(0.0, tail * shape_.rest_scale - (static_cast<double>(mine.rest) + other.rest));
    chosen_[kept] = index;
    kept += a * a + b * b <= ceiling ? 1 : 0;
  }
  return kept;
}

// Recomputes what the bounds leave of the scanned segment.
void Examiner::examine_segment(int64_t row, int64_t j, int64_t segment, int64_t width, Hit* hit) {
  const int64_t begin = segment * shape_.segment;
  double bound = distance(hit->square);
  const Bounds& mine = q_.bounds[row];
  const int64_t widest = limit(bound + mine.rho + segment_bounds_[j * segments_ + segment].rho);
  const int64_t count = isa_.select(scores_.data(), width, static_cast<int32_t>(-widest),
                                    chosen_.data());
  const float* x = q_.x + row * shape_.channels;
  const int64_t base = j * r_.rows + begin;
  int64_t kept = 0;  // padding may have been chosen where nothing is known yet
  while (kept < count && begin + chosen_[kept] < r_.rows) ++kept;
  if (shape_.fine_stride != 0) kept = closer(row, j, segment, kept, bound);
  for (int64_t n = 0; n < kept; ++n) {
    const int64_t patch = begin + chosen_[n];
    if (patch == hit->patch) continue;
    const int64_t other = base + chosen_[n];
    if (shape_.fine_stride == 0) {
      const int64_t t = -static_cast<int64_t>(scores_[chosen_[n]]);
      if (t > limit(bound + mine.rho + r_.bounds[other].rho)) continue;
    }
    if (n + 1 < kept) prefetch(r_.x + (base + chosen_[n + 1]) * shape_.channels);
    const float square =
        isa_.squared_distance(x, r_.x + other * shape_.channels, shape_.channels);
    ++counters[2];
    if (square < hit->square ||
        (square == hit->square && (hit->patch < 0 || patch < hit->patch))) {
      hit->square = square;
      hit->patch = static_cast<int32_t>(patch);
      bound = distance(square);
    }
  }
}

// Without the certificate: the next few scores of the segment, whatever the bound says.
void Examiner::look_at_best(int64_t row, int64_t j, int64_t segment, int64_t width, Hit* hit) {
  const int64_t begin = segment * shape_.segment;
  scores_[static_cast<size_t>(hit->patch - begin)] = std::numeric_limits<int32_t>::min();
  for (int n = 1; n < kFastCandidates; ++n) {
    isa_.select(scores_.data(), width, isa_.largest(scores_.data(), width), chosen_.data());
    const int64_t patch = begin + chosen_[0];
    if (patch >= r_.rows) return;
    scores_[static_cast<size_t>(chosen_[0])] = std::numeric_limits<int32_t>::min();
    const float square = isa_.squared_distance(
        q_.x + row * shape_.channels, r_.x + (j * r_.rows + patch) * shape_.channels,
        shape_.channels);
    ++counters[2];
    if (square < hit->square || (square == hit->square && patch < hit->patch)) {
      hit->square = square;
      hit->patch = static_cast<int32_t>(patch);
    }
  }
}

// The nearest patch of the image of `column`, if it is not farther than `worst` (a squared distance).
Hit Examiner::examine(int64_t image, int64_t p, int64_t column, float worst) {
  ++counters[0];
  const int64_t j = image_of(image, column);
  const uint16_t* t = best(image, column) + p;
  int64_t first = 0;
  for (int64_t s = 1; s < segments_; ++s) {
    if (t[s * q_.padded] < t[first * q_.padded]) first = s;
  }
  const int64_t row = image * q_.rows + p;
  Hit hit{worst, static_cast<int32_t>(column), -1};
  int64_t width = scan(image, p, j, first);
  if (worst == kInfinity) {  // Nothing is known yet: start from the best score.
    const int32_t top = isa_.largest(scores_.data(), width);
    isa_.select(scores_.data(), width, top, chosen_.data());
    const int64_t patch = first * shape_.segment + chosen_[0];
    hit.square = isa_.squared_distance(q_.x + row * shape_.channels,
                                       r_.x + (j * r_.rows + patch) * shape_.channels,
                                       shape_.channels);
    hit.patch = static_cast<int32_t>(patch);
    ++counters[2];
  }
  if (!args_.certified) {
    look_at_best(row, j, first, width, &hit);
    return hit;
  }
  examine_segment(row, j, first, width, &hit);
  double bound = distance(hit.square) + q_.bounds[row].rho;
  for (int64_t s = 0; s < segments_; ++s) {
    if (s == first) continue;
    const int64_t reach = limit(bound + segment_bounds_[j * segments_ + s].rho);
    if (t[s * q_.padded] > (reach >> shape_.shift)) continue;
    width = scan(image, p, j, s);
    examine_segment(row, j, s, width, &hit);
    bound = distance(hit.square) + q_.bounds[row].rho;
  }
  return hit;
}

}  // namespace musc
