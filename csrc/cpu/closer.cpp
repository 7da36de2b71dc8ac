// The last steps of an examination: closer looks at the candidates, and the exact distances of what
// they leave.
#include "cpu/examine.hpp"

namespace musc {

// What is left of the candidates so far, and their distances.
void Examiner::flush() {
  if (candidates_ == 0) return;
  if (shape_.fine_stride != 0) look_closer();
  recompute();
}

// The first closer look, at the same vectors in 12 bits; the second, at what the basis leaves out, in
// 8 bits, in place of the difference of its norms.
void Examiner::look_closer() {
  const int64_t mine = ask_.image * q_.rows, theirs = j_ * r_.rows;
  isa_.fine_squares(q_.fine + mine * shape_.fine_stride, r_.fine + theirs * shape_.fine_stride,
                    shape_.fine_stride, picks(), squares_.data());
  counters[4] += candidates_;
  LookArgs args;
  args.mine = q_.bounds + mine;
  args.theirs = r_.bounds + theirs;
  args.reach = reach_.data();
  args.slots = slots_.data();
  args.rows = rows_.data();
  args.others = others_.data();
  args.squares = squares_.data();
  args.count = candidates_;
  args.fine_inverse = static_cast<float>(1.0 / shape_.fine_scale);
  candidates_ = isa_.keep_fine(args);
  if (shape_.rest_stride == 0 || candidates_ == 0) return;
  isa_.rest_dots(q_.rest + mine * shape_.rest_stride, r_.rest + theirs * shape_.rest_stride,
                 shape_.rest_stride, picks(), dots_.data());
  counters[5] += candidates_;
  args.count = candidates_;
  args.rest_steps = static_cast<float>(shape_.rest_scale / shape_.fine_scale);
  args.dots = dots_.data();
  candidates_ = isa_.keep_rest(args);
}

// The exact distances of what is left.
void Examiner::recompute() {
  isa_.squared_distances(q_.x + ask_.image * q_.rows * shape_.channels,
                         r_.x + j_ * r_.rows * shape_.channels, shape_.channels, picks(),
                         distances_.data());
  counters[2] += candidates_;
  for (int64_t n = 0; n < candidates_; ++n) {
    const size_t at = sized(n);
    improve(slots_[at], distances_[at], others_[at]);
  }
  candidates_ = 0;
}

}  // namespace musc
