#include "cpu/examine.hpp"

#include <algorithm>

namespace musc {
namespace {

constexpr int kFastCandidates = 4;
constexpr int64_t kList = 2048;  // candidates at a time: what the nearest cache holds

size_t sized(int64_t count) { return static_cast<size_t>(count); }

}  // namespace

Examiner::Examiner(const Isa& isa, const Operands& queries, const Operands& references,
                   const SearchShape& shape, const RefineArgs& args)
    : isa_(isa), q_(queries), r_(references), shape_(shape), args_(args),
      segments_((references.padded + shape.segment - 1) / shape.segment),
      inverse_(1.0 / shape.scale),
      fine_inverse_(shape.fine_stride != 0 ? 1.0 / shape.fine_scale : 0.0),
      ordered_(sized(kBlock)), ends_(sized(segments_ + 1)), scores_(sized(kBatch * shape.segment)),
      chosen_(sized(shape.segment + kPanel)),
      found_(sized(kBlock)) {
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

// Scores [count][segment] of some patches against one segment.
void Examiner::scan(const int32_t* batch, int64_t count, int64_t segment, int32_t* scores) {
  const int64_t begin = segment * shape_.segment, column = j_ * r_.padded + begin;
  const int64_t group = isa_.int8.group;
  ScanArgs scan;
  scan.words = shape_.words;
  scan.panels = width(segment) / kPanel;
  scan.right = r_.right + column * shape_.words;
  scan.right_init = r_.right_init + column;
  scan.stride = shape_.segment;
  for (int64_t at = 0; at < count; at += kTogether) {
    scan.rows = std::min(kTogether, count - at);
    scan.out = scores + at * shape_.segment;
    for (int64_t r = 0; r < scan.rows; ++r) {
      const int64_t p = ask_.wanted[batch[at + r]].patch, row = ask_.image * q_.padded + p;
      scan.left[r] = q_.left + (row - p % group) * shape_.words + p % group;
      scan.left_init[r] = q_.left_init[row];
    }
    isa_.int8.scan(scan);
  }
  counters[1] += count;
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
  for (int64_t b = 0, next = 0; b < count; b = next) {
    const int64_t segment = ask_.wanted[batch[b]].segment;
    while (next < count && ask_.wanted[batch[next]].segment == segment) ++next;
    scan(batch + b, next - b, segment, scores_.data() + b * shape_.segment);
    for (int64_t n = b; n < next; ++n) {
      const int32_t* scores = scores_.data() + n * shape_.segment;
      const int32_t most = isa_.largest(scores, width(segment));
      isa_.select(scores, width(segment), most, chosen_.data());
      add(batch[n], segment * shape_.segment + chosen_[0]);
    }
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
  const int64_t widest = limit(reach + r_.segment_rho[j_ * segments_ + segment]);
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
  const Summary summary = this->summary(ask_.image, ask_.column);
  const int64_t words = lanes_of(ask_.rows) / kLanes, stride = lanes_of(q_.rows) / kLanes;
  // Which segments of which rows: all, those near the best score, those close to it.
  uint32_t whole[kBlock / kLanes] = {}, some[kBlock / kLanes] = {}, few[kBlock / kLanes] = {};
  for (int64_t n = 0; n < ask_.count; ++n) {
    const int64_t row = ask_.wanted[n].patch - ask_.begin, at = ask_.begin + row;
    const int64_t most = limit(reach_[n] + bounds_of(n).rho + shape_.usual_rho) >> shape_.shift;
    auto& rows = most < summary.close_outside[at] ? few : most < summary.outside[at] ? some : whole;
    rows[row / kLanes] |= 1u << row % kLanes;
    slot_of_[row] = static_cast<int32_t>(n);
  }
  const uint32_t* bits = summary.bits + ask_.begin / kLanes;
  const uint32_t* close = summary.close_bits + ask_.begin / kLanes;
  for (int64_t s = 0; s < segments_; ++s, bits += stride, close += stride) {
    int64_t found = 0;
    for (int64_t w = 0; w < words; ++w) {
      const uint32_t rows = (close[w] & few[w]) | (bits[w] & some[w]) | whole[w];
      for_bits(rows, w * kLanes, [&](int64_t row) {
        const int32_t n = slot_of_[row];
        found_[sized(found)] = n;
        found += fresh_ && ask_.wanted[n].segment == s ? 0 : 1;
      });
    }
    for (int64_t at = 0; at < found; at += kBatch) {
      const int32_t* batch = found_.data() + at;
      const int64_t count = std::min(kBatch, found - at);
      scan(batch, count, s, scores_.data());
      for (int64_t b = 0; b < count; ++b) {
        choose(batch[b], s, scores_.data() + b * shape_.segment);
      }
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
