#include "cpu/examine.hpp"

#include <algorithm>

namespace musc {
namespace {

constexpr int kFastCandidates = 4;
constexpr int64_t kList = 2048;  // candidates at a time: what the nearest cache holds

size_t sized(int64_t count) { return static_cast<size_t>(count); }

}  // namespace

Examiner::Examiner(const Isa& isa, const Operands& queries, const Operands& references,
                   const SearchShape& shape, const RefineArgs& args, const Bounds* segment_bounds)
    : isa_(isa), q_(queries), r_(references), shape_(shape), args_(args),
      segment_bounds_(segment_bounds),
      segments_((references.padded + shape.segment - 1) / shape.segment),
      inverse_(1.0 / shape.scale),
      fine_inverse_(shape.fine_stride != 0 ? 1.0 / shape.fine_scale : 0.0),
      ordered_(sized(kBlock)), ends_(sized(segments_ + 1)), scores_(sized(kBatch * shape.segment)),
      spare_(sized(shape.segment)), chosen_(sized(shape.segment + kPanel)),
      found_(sized(kBlock + kPanel)) {
  const size_t most = sized(kList + shape.segment + kPanel);
  for (auto* list : {&slots_, &rows_, &others_, &squares_, &rests_}) list->resize(most);
  distances_.resize(most);
}

void Examiner::examine(const Question& question) {
  ask_ = question;
  if (ask_.count == 0) return;
  j_ = image_of(ask_.image, ask_.column);
  fresh_ = ask_.wanted[0].worst == kInfinity;
  counters[0] += ask_.count;
  candidates_ = 0;
  if (fresh_) {
    start_all();
  } else {
    for (int64_t n = 0; n < ask_.count; ++n) {
      ask_.hits[n] = {ask_.wanted[n].worst, static_cast<int32_t>(ask_.column), -1};
      reach_[n] = distance(ask_.wanted[n].worst);
    }
  }
  if (args_.certified) collect();
  flush();
}

// Scores of one patch against one segment.
int64_t Examiner::scan(int64_t n, int64_t segment, int32_t* scores) {
  const int64_t begin = segment * shape_.segment, p = ask_.wanted[n].patch;
  const int64_t row = ask_.image * q_.padded + p, column = j_ * r_.padded + begin;
  const int64_t group = isa_.int8.group;
  const uint32_t* left = q_.left + (row - p % group) * shape_.words + p % group;
  isa_.int8.scan(left, r_.right + column * shape_.words, shape_.words, width(segment) / kPanel,
                 q_.left_init[row], r_.right_init + column, scores);
  ++counters[1];
  return width(segment);
}

// Every patch's segment of best score, those of one segment after each other.
void Examiner::start_all() {
  std::fill(ends_.begin(), ends_.end(), 0);
  for (int64_t n = 0; n < ask_.count; ++n) ++ends_[sized(ask_.wanted[n].segment + 1)];
  for (int64_t s = 0; s < segments_; ++s) ends_[sized(s + 1)] += ends_[sized(s)];
  for (int64_t n = 0; n < ask_.count; ++n) {
    ordered_[sized(ends_[sized(ask_.wanted[n].segment)]++)] = static_cast<int32_t>(n);
  }
  for (int64_t at = 0; at < ask_.count; at += kBatch) {
    const int32_t* batch = ordered_.data() + at;
    const int64_t count = std::min(kBatch, ask_.count - at);
    flush();
    start(batch, count);
    if (!args_.certified) {
      look_at_best(batch, count);
      continue;
    }
    for (int64_t b = 0; b < count; ++b) {
      choose(batch[b], ask_.wanted[batch[b]].segment, scores_.data() + b * shape_.segment);
    }
  }
}

// The exact distance to the candidate of best score, for a start.
void Examiner::start(const int32_t* batch, int64_t count) {
  for (int64_t b = 0; b < count; ++b) {
    int32_t* scores = scores_.data() + b * shape_.segment;
    const int64_t segment = ask_.wanted[batch[b]].segment, width = scan(batch[b], segment, scores);
    isa_.select(scores, width, isa_.largest(scores, width), chosen_.data());
    add(batch[b], segment * shape_.segment + chosen_[0]);
  }
  isa_.squared_distances(q_.x + ask_.image * q_.rows * shape_.channels,
                         r_.x + j_ * r_.rows * shape_.channels, shape_.channels, picks(),
                         distances_.data());
  counters[2] += count;
  candidates_ = 0;
  for (int64_t b = 0; b < count; ++b) {
    const float square = distances_[sized(b)];
    ask_.hits[batch[b]] = {square, static_cast<int32_t>(ask_.column), others_[sized(b)]};
    reach_[batch[b]] = distance(square);
  }
}

// Without the certificate: the next few scores of the segment, whatever the bound says.
void Examiner::look_at_best(const int32_t* batch, int64_t count) {
  constexpr int32_t kGone = std::numeric_limits<int32_t>::min();
  for (int64_t b = 0; b < count; ++b) {
    const int64_t segment = ask_.wanted[batch[b]].segment;
    const int64_t begin = segment * shape_.segment;
    int32_t* scores = scores_.data() + b * shape_.segment;
    scores[ask_.hits[batch[b]].patch - begin] = kGone;
    for (int more = 1; more < kFastCandidates; ++more) {
      isa_.select(scores, width(segment), isa_.largest(scores, width(segment)), chosen_.data());
      if (begin + chosen_[0] >= r_.rows || scores[chosen_[0]] == kGone) break;
      scores[chosen_[0]] = kGone;
      add(batch[b], begin + chosen_[0]);
    }
  }
  recompute();
}

// The candidates of a scanned segment that the bound leaves.
void Examiner::choose(int64_t n, int64_t segment, const int32_t* scores) {
  if (candidates_ > kList) flush();
  const int64_t begin = segment * shape_.segment;
  const double reach = reach_[n] + bounds_of(n).rho;
  const int64_t widest = limit(reach + segment_bounds_[j_ * segments_ + segment].rho);
  const int64_t count =
      isa_.select(scores, width(segment), static_cast<int32_t>(-widest), chosen_.data());
  const Bounds* bounds = r_.bounds + j_ * r_.rows + begin;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t at = chosen_[sized(k)], patch = begin + at;
    if (patch >= r_.rows) break;  // padding, where nothing is known yet
    const bool keep =
        patch != ask_.hits[n].patch && -scores[at] <= limit(reach + bounds[at].rho);
    add(n, patch);
    candidates_ -= keep ? 0 : 1;
  }
}

// All candidates that the scores leave, but those of start_all().
void Examiner::collect() {
  const Bounds* others = segment_bounds_ + j_ * segments_;
  float most = 0.0f;
  for (int64_t s = 0; s < segments_; ++s) most = std::max(most, others[s].rho);
  std::fill_n(limits_, ask_.rows, static_cast<uint16_t>(0));
  std::fill_n(slot_of_, ask_.rows, -1);
  for (int64_t n = 0; n < ask_.count; ++n) {
    const int64_t row = ask_.wanted[n].patch - ask_.begin;
    const int64_t widest = limit(reach_[n] + bounds_of(n).rho + most) >> shape_.shift;
    limits_[row] = static_cast<uint16_t>(std::min<int64_t>(widest, 65535));
    slot_of_[row] = static_cast<int32_t>(n);
  }
  const uint16_t* scores = best(ask_.image, ask_.column) + ask_.begin;
  for (int64_t s = 0; s < segments_; ++s, scores += q_.padded) {
    const int64_t count = isa_.within(scores, limits_, ask_.rows, found_.data());
    for (int64_t k = 0; k < count; ++k) {
      const int32_t row = found_[sized(k)], n = slot_of_[row];
      if (n < 0 || (fresh_ && ask_.wanted[n].segment == s)) continue;
      const double reach = reach_[n] + bounds_of(n).rho + others[s].rho;
      if (scores[row] > limit(reach) >> shape_.shift) continue;
      scan(n, s, spare_.data());
      choose(n, s, spare_.data());
    }
  }
}

// What is left of the candidates so far, and their distances.
void Examiner::flush() {
  if (candidates_ == 0) return;
  if (shape_.fine_stride != 0) look_closer();
  if (shape_.rest_stride != 0) look_at_rest();
  recompute();
}

// The first closer look, at the same vectors in 12 bits: only those that stay are kept.
void Examiner::look_closer() {
  const int64_t mine = ask_.image * q_.rows, theirs = j_ * r_.rows;
  isa_.fine_squares(q_.fine + mine * shape_.fine_stride, r_.fine + theirs * shape_.fine_stride,
                    shape_.fine_stride, picks(), squares_.data());
  counters[4] += candidates_;
  int64_t kept = 0;
  for (int64_t n = 0; n < candidates_; ++n) {
    const size_t at = sized(n);
    const double rho = static_cast<double>(q_.bounds[mine + rows_[at]].fine) +
                       r_.bounds[theirs + others_[at]].fine;
    const double reach = (reach_[slots_[at]] + rho) * (1.0 + 1e-12) * fine_inverse_;
    const int32_t square = squares_[at];
    move(n, kept);
    squares_[sized(kept)] = square;
    kept += square <= reach * reach ? 1 : 0;
  }
  candidates_ = kept;
}

// The second: what the basis leaves out, in 8 bits, in place of the difference of its norms.
void Examiner::look_at_rest() {
  const int64_t mine = ask_.image * q_.rows, theirs = j_ * r_.rows;
  isa_.rest_squares(q_.rest + mine * shape_.rest_stride, r_.rest + theirs * shape_.rest_stride,
                    shape_.rest_stride, picks(), rests_.data());
  counters[5] += candidates_;
  const auto norm_of = [&](const int16_t* fine, int64_t row) -> int32_t {  // not in the prefix
    return fine[row * shape_.fine_stride + shape_.prefix];
  };
  int64_t kept = 0;
  for (int64_t n = 0; n < candidates_; ++n) {
    const size_t at = sized(n);
    const int64_t row = mine + rows_[at], other = theirs + others_[at];
    const int32_t apart = norm_of(q_.fine, row) - norm_of(r_.fine, other);
    const double prefix = std::sqrt(static_cast<double>(squares_[at] - apart * apart));
    const double tail = std::sqrt(static_cast<double>(rests_[at]));
    const Bounds &own = q_.bounds[row], &their = r_.bounds[other];
    const double a =
        std::max(0.0, prefix * shape_.fine_scale - (static_cast<double>(own.fine) + their.fine));
    const double b =
        std::max(0.0, tail * shape_.rest_scale - (static_cast<double>(own.rest) + their.rest));
    const double reach = reach_[slots_[at]];
    move(n, kept);
    kept += a * a + b * b <= reach * reach * (1.0 + 1e-12) ? 1 : 0;
  }
  candidates_ = kept;
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
