// The last steps of an examination: closer looks at the candidates, and exact distances of those
// that remain.
#include "cpu/search/examine.hpp"

namespace musc {

// Takes closer looks at the candidates collected so far, and recomputes those that remain.
void Examiner::flush() {
  if (candidates_ == 0) return;
  if (shape_.fine_stride != 0) look_closer();
  recompute();
}

// The fine look compares the same vectors in 12 bits. The look at the rest compares the residuals
// in 8 bits, where the fine look has only the difference of their norms.
void Examiner::look_closer() {
  const int64_t mine = ask_.image * q_.rows, theirs = j_ * r_.rows;
  kernels_.fine_squares(q_.fine + mine * shape_.fine_stride, r_.fine + theirs * shape_.fine_stride,
                    shape_.fine_stride, picks(), squares_.data());
  counters.fine += candidates_;
  CloserLookArgs args;
  args.row_bounds = q_.bounds + mine;
  args.other_bounds = r_.bounds + theirs;
  args.limit_distance = limit_distance_.data();
  args.slots = slots_.data();
  args.rows = rows_.data();
  args.others = others_.data();
  args.squares = squares_.data();
  args.count = candidates_;
  args.fine_inverse = static_cast<float>(1.0 / shape_.fine_scale);
  candidates_ = kernels_.keep_fine(args);
  if (shape_.rest_stride == 0 || candidates_ == 0) return;
  kernels_.rest_dots(q_.rest + mine * shape_.rest_stride, r_.rest + theirs * shape_.rest_stride,
                 shape_.rest_stride, picks(), dots_.data());
  counters.rest += candidates_;
  args.count = candidates_;
  args.rest_steps = static_cast<float>(shape_.rest_scale / shape_.fine_scale);
  args.dots = dots_.data();
  candidates_ = kernels_.keep_rest(args);
}

// Computes the exact distances of the remaining candidates.
void Examiner::recompute() {
  kernels_.squared_distances(q_.x + ask_.image * q_.rows * shape_.channels,
                         r_.x + j_ * r_.rows * shape_.channels, shape_.channels, picks(),
                         distances_.data());
  counters.recomputed += candidates_;
  for (int64_t n = 0; n < candidates_; ++n) {
    const size_t at = sized(n);
    improve(slots_[at], distances_[at], others_[at]);
  }
  candidates_ = 0;
}

}  // namespace musc
