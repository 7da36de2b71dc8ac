#include "cpu/examine.hpp"

#include <algorithm>

namespace musc {
namespace {

constexpr int kFastCandidates = 4;
constexpr int64_t kKeptScores = 8192;  // of a batch's best segments: what the nearest cache holds

size_t sized(int64_t count) { return static_cast<size_t>(count); }

}  // namespace

Examiner::Examiner(const Isa& isa, const Operands& queries, const Operands& references,
                   const SearchShape& shape, const RefineArgs& args, const Bounds* segment_bounds)
    : isa_(isa), q_(queries), r_(references), shape_(shape), args_(args),
      segment_bounds_(segment_bounds),
      segments_((references.padded + shape.segment - 1) / shape.segment),
      batch_(std::min(kBatch, std::max<int64_t>(1, kKeptScores / shape.segment))),
      inverse_(1.0 / shape.scale),
      fine_inverse_(shape.fine_stride != 0 ? 1.0 / shape.fine_scale : 0.0),
      t_(sized(segments_ * kBatch)), scores_(sized(batch_ * shape.segment)),
      spare_(sized(shape.segment)), chosen_(sized(shape.segment + kPanel)) {
  const size_t most = sized(batch_ * references.padded);
  for (auto* list : {&slots_, &rows_, &others_, &squares_, &rests_}) list->resize(most);
  distances_.resize(most);
}

void Examiner::examine(int64_t image, int64_t column, const Wanted* wanted, int64_t count,
                       Hit* hits) {
  const int64_t j = image_of(image, column);
  counters[0] += count;
  for (int64_t at = 0; at < count; at += batch_) {
    const Batch batch{image, j,         column,
                      wanted + at, std::min(batch_, count - at), hits + at,
                      wanted[at].worst == kInfinity};
    gather_segments(batch);
    if (batch.fresh) {
      start(batch);
    } else {
      for (int64_t n = 0; n < batch.count; ++n) {
        batch.hits[n] = {batch.wanted[n].worst, static_cast<int32_t>(column), -1};
      }
    }
    if (!args_.certified) {
      for (int64_t n = 0; n < batch.count; ++n) look_at_best(batch, n);
      continue;
    }
    collect(batch);
    if (shape_.fine_stride != 0) look_closer(batch);
    if (shape_.rest_stride != 0) look_at_rest(batch);
    recompute(batch);
  }
}

void Examiner::gather_segments(const Batch& batch) {
  const uint16_t* best_of = best(batch.image, batch.column);
  uint32_t least[kBatch];  // score and segment
  std::fill_n(least, kBatch, 0xffffffffu);
  for (int64_t s = 0; s < segments_; ++s, best_of += q_.padded) {
    uint16_t* t = t_.data() + s * kBatch;
    for (int64_t n = 0; n < batch.count; ++n) t[n] = best_of[batch.wanted[n].patch];
    for (int64_t n = 0; n < kBatch; ++n) {
      const uint32_t key = static_cast<uint32_t>(t[n]) << 16 | static_cast<uint32_t>(s);
      least[n] = key < least[n] ? key : least[n];
    }
  }
  for (int64_t n = 0; n < batch.count; ++n) first_[n] = least[n] & 0xffffu;
}

// Scores of one patch against one segment; returns how many.
int64_t Examiner::scan(const Batch& batch, int64_t n, int64_t segment, int32_t* scores) {
  const int64_t begin = segment * shape_.segment, p = batch.wanted[n].patch;
  const int64_t row = batch.image * q_.padded + p, column = batch.j * r_.padded + begin;
  const uint32_t* left = q_.left + (row - p % kTileRows) * shape_.words + p % kTileRows;
  isa_.int8.scan(left, r_.right + column * shape_.words, shape_.words, width(segment) / kPanel,
                 q_.left_init[row], r_.right_init + column, scores);
  ++counters[1];
  return width(segment);
}

// The exact distance to the candidate of best score, for a start.
void Examiner::start(const Batch& batch) {
  for (int64_t n = 0; n < batch.count; ++n) {
    int32_t* scores = scores_.data() + n * shape_.segment;
    const int64_t count = scan(batch, n, first_[n], scores);
    isa_.select(scores, count, isa_.largest(scores, count), chosen_.data());
    rows_[sized(n)] = batch.wanted[n].patch;
    others_[sized(n)] = static_cast<int32_t>(first_[n] * shape_.segment + chosen_[0]);
  }
  candidates_ = batch.count;
  isa_.squared_distances(q_.x + batch.image * q_.rows * shape_.channels,
                         r_.x + batch.j * r_.rows * shape_.channels, shape_.channels, picks(),
                         distances_.data());
  counters[2] += batch.count;
  for (int64_t n = 0; n < batch.count; ++n) {
    batch.hits[n] = {distances_[sized(n)], static_cast<int32_t>(batch.column), others_[sized(n)]};
  }
}

// Without the certificate: the next few scores of the segment, whatever the bound says.
void Examiner::look_at_best(const Batch& batch, int64_t n) {
  const int64_t begin = first_[n] * shape_.segment, count = width(first_[n]);
  int32_t* scores = scores_.data() + n * shape_.segment;
  candidates_ = 0;
  scores[batch.hits[n].patch - begin] = std::numeric_limits<int32_t>::min();
  while (candidates_ < kFastCandidates - 1) {
    isa_.select(scores, count, isa_.largest(scores, count), chosen_.data());
    const int64_t patch = begin + chosen_[0];
    if (patch >= r_.rows || scores[chosen_[0]] == std::numeric_limits<int32_t>::min()) break;
    scores[chosen_[0]] = std::numeric_limits<int32_t>::min();
    slots_[sized(candidates_)] = static_cast<int32_t>(n);
    rows_[sized(candidates_)] = batch.wanted[n].patch;
    others_[sized(candidates_++)] = static_cast<int32_t>(patch);
  }
  recompute(batch);
}

// The candidates of a scanned segment that the bound leaves.
void Examiner::choose(const Batch& batch, int64_t n, int64_t segment, const int32_t* scores) {
  const int64_t begin = segment * shape_.segment;
  const double reach = reach_[n] + bounds_of(batch, n).rho;
  const int64_t widest = limit(reach + segment_bounds_[batch.j * segments_ + segment].rho);
  const int64_t count =
      isa_.select(scores, width(segment), static_cast<int32_t>(-widest), chosen_.data());
  const Bounds* bounds = r_.bounds + batch.j * r_.rows + begin;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t at = chosen_[sized(k)], patch = begin + at;
    if (patch >= r_.rows) break;  // padding, where nothing is known yet
    bool keep = patch != batch.hits[n].patch;
    if (shape_.fine_stride == 0) keep = keep && -scores[at] <= limit(reach + bounds[at].rho);
    slots_[sized(candidates_)] = static_cast<int32_t>(n);
    rows_[sized(candidates_)] = batch.wanted[n].patch;
    others_[sized(candidates_)] = static_cast<int32_t>(patch);
    candidates_ += keep ? 1 : 0;
  }
}

// All candidates of the batch that the scores leave.
void Examiner::collect(const Batch& batch) {
  candidates_ = 0;
  const Bounds* others = segment_bounds_ + batch.j * segments_;
  float most = 0.0f;
  for (int64_t s = 0; s < segments_; ++s) most = std::max(most, others[s].rho);
  for (int64_t n = 0; n < batch.count; ++n) {
    reach_[n] = distance(batch.hits[n].square);
    if (batch.fresh) choose(batch, n, first_[n], scores_.data() + n * shape_.segment);
    const double reach = reach_[n] + bounds_of(batch, n).rho;
    const int64_t widest = limit(reach + most) >> shape_.shift;
    for (int64_t s = 0; s < segments_; ++s) {
      const int64_t t = t_[sized(s * kBatch + n)];
      if (t > widest || (batch.fresh && s == first_[n])) continue;
      if (t > (limit(reach + others[s].rho) >> shape_.shift)) continue;
      scan(batch, n, s, spare_.data());
      choose(batch, n, s, spare_.data());
    }
  }
}

// The first closer look, at the same vectors in 12 bits: only those that stay are kept.
void Examiner::look_closer(const Batch& batch) {
  const int64_t mine = batch.image * q_.rows, theirs = batch.j * r_.rows;
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
void Examiner::look_at_rest(const Batch& batch) {
  const int64_t mine = batch.image * q_.rows, theirs = batch.j * r_.rows;
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
void Examiner::recompute(const Batch& batch) {
  isa_.squared_distances(q_.x + batch.image * q_.rows * shape_.channels,
                         r_.x + batch.j * r_.rows * shape_.channels, shape_.channels, picks(),
                         distances_.data());
  counters[2] += candidates_;
  for (int64_t n = 0; n < candidates_; ++n) {
    const size_t at = sized(n);
    improve(batch.hits + slots_[at], distances_[at], others_[at]);
  }
}

}  // namespace musc
