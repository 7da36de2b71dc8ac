#include "cpu/search/examine.hpp"

#include <algorithm>

namespace musc {
namespace {

constexpr int kFastCandidates = 4;  // recomputed of a patch and image where nothing is certified
constexpr int32_t kGone = -std::numeric_limits<int32_t>::max();  // below every score
constexpr int64_t kWord = 4;     // panels whose masks are read together
constexpr int64_t kList = 2048;  // candidates at a time, which fit the nearest cache

}  // namespace

Examiner::Examiner(const KernelTable& kernels, const RoundedImages& queries,
                   const RoundedImages& references, const SearchShape& shape,
                   const RefineArgs& args)
    : kernels_(kernels), q_(queries), r_(references), shape_(shape), args_(args),
      segments_((references.padded + shape.segment - 1) / shape.segment),
      inverse_(1.0 / shape.scale), limit_distance_(sized(kMostRows)),
      slot_of_(sized(kMostRows)), ordered_(sized(kMostRows)), ends_(sized(segments_ + 1)),
      mask_stride_((shape.segment / kPanel + kWord - 1) / kWord * kWord),
      scores_(sized(kBatch * shape.segment)), masks_(sized(kBatch * mask_stride_)),
      block_(sized(kTogether * shape.words)), least_(sized(kTogether * mask_stride_)),
      found_(sized(kMostRows)) {
  const size_t most = sized(kList + shape.segment + kPanel);
  for (auto* list : {&slots_, &rows_, &others_, &squares_, &dots_}) list->resize(most);
  distances_.resize(most);
}

void Examiner::examine(const Question& question) {
  ask_ = question;
  if (ask_.count == 0) return;
  j_ = image_of(ask_.image, ask_.column);
  fresh_ = ask_.wanted[0].segment >= 0;
  counters.examined += ask_.count;
  candidates_ = 0;
  if (fresh_) {
    start_all();
  } else {
    for (int64_t n = 0; n < ask_.count; ++n) {
      ask_.hits[n] = {ask_.wanted[n].worst, static_cast<int32_t>(ask_.column), -1};
      limit_distance_[sized(n)] = ask_.wanted[n].limit_distance;
    }
  }
  if (args_.certified) collect();
  flush();
}

void Examiner::fetch_summary(int64_t image, int64_t column, int64_t begin, int64_t rows) const {
  const Summary summary = this->summary(image, column);
  for (const uint16_t* of :
       {summary.nearest, summary.first, summary.outside, summary.close_outside}) {
    fetch(of + begin, rows);
  }
  const int64_t stride = lanes_of(q_.rows) / kLanes, words = lanes_of(rows) / kLanes;
  for (int64_t s = 0; s < segments_; ++s) {
    fetch(summary.bits + s * stride + begin / kLanes, words);
    fetch(summary.close_bits + s * stride + begin / kLanes, words);
  }
}

// Prefetches the rows of some patches that their scan and the closer looks read.
void Examiner::fetch_rows(const int32_t* batch, int64_t count) const {
  for (int64_t b = 0; b < count; ++b) {
    const Wanted& wanted = ask_.wanted[batch[b]];
    const int64_t image = ask_.image + wanted.image, row = image * q_.rows + wanted.patch;
    fetch(q_.left + (image * q_.padded + wanted.patch) * shape_.words, shape_.words);
    fetch(q_.fine + row * shape_.fine_stride, shape_.fine_stride);
  }
}

// Compares some patches with one segment: writes scores [count][segment], or where that is null the
// bits of the scores within the limits to masks_.
void Examiner::scan(const int32_t* batch, int64_t count, int64_t segment, int32_t* scores) {
  const int64_t begin = segment * shape_.segment, column = j_ * r_.padded + begin;
  ScanArgs scan{};
  scan.block = block_.data();
  scan.least = least_.data();
  scan.words = shape_.words;
  scan.panels = width(segment) / kPanel;
  scan.right = r_.right + column * shape_.words;
  scan.right_init = r_.right_init + column;
  scan.stride = shape_.segment;
  scan.panel_errors = panel_errors(segment);
  scan.mask_stride = mask_stride_;
  for (int64_t at = 0; at < count; at += kTogether) {
    scan.rows = std::min(kTogether, count - at);
    scan.out = scores == nullptr ? nullptr : scores + at * shape_.segment;
    scan.masks = masks_.data() + at * mask_stride_;
    for (int64_t r = 0; r < scan.rows; ++r) {
      const Wanted& wanted = ask_.wanted[batch[at + r]];
      const int64_t row = (ask_.image + wanted.image) * q_.padded + wanted.patch;
      scan.left[r] = q_.left + row * shape_.words;
      scan.left_init[r] = q_.left_init[row];
      if (scores == nullptr) scan.row_limits[r] = row_limit(batch[at + r]);
    }
    kernels_.int8.scan(scan);
  }
  counters.scanned += count;
}

// Scans the segment of best score of every patch, sorted by segment.
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
    fetch_rows(batch + count, std::min(kBatch, ask_.count - at - count));
    flush();
    start(batch, count);
    if (!args_.certified) {
      look_at_best(batch, count);
      continue;
    }
    for (int64_t b = 0; b < count; ++b) {
      const int64_t n = batch[b], segment = ask_.wanted[n].segment;
      kernels_.choose({scores_.data() + b * shape_.segment, width(segment) / kPanel, row_limit(n),
                   panel_errors(segment), masks_.data()});
      take_chosen(n, segment, masks_.data());
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
      add(batch[n], segment * shape_.segment + kernels_.largest(scores, width(segment)));
    }
  }
  kernels_.squared_distances(q_.x + ask_.image * q_.rows * shape_.channels,
                         r_.x + j_ * r_.rows * shape_.channels, shape_.channels, picks(),
                         distances_.data());
  counters.recomputed += count;
  candidates_ = 0;
  for (int64_t b = 0; b < count; ++b) {
    const float square = distances_[sized(b)];
    ask_.hits[batch[b]] = {square, static_cast<int32_t>(ask_.column), others_[sized(b)]};
    limit_distance_[sized(batch[b])] = distance(square);
  }
}

// Without the certificate: the next few scores of the segment, whatever the bound says.
void Examiner::look_at_best(const int32_t* batch, int64_t count) {
  for (int64_t b = 0; b < count; ++b) {
    const int64_t segment = ask_.wanted[batch[b]].segment;
    const int64_t begin = segment * shape_.segment;
    int32_t* scores = scores_.data() + b * shape_.segment;
    scores[ask_.hits[batch[b]].patch - begin] = kGone;
    for (int more = 1; more < kFastCandidates; ++more) {
      const int64_t at = kernels_.largest(scores, width(segment));
      if (begin + at >= r_.rows || scores[at] == kGone) break;
      scores[at] = kGone;
      add(batch[b], begin + at);
    }
  }
  recompute();
}

// Adds the candidates of a segment that their bits mark, without padding and the nearest one so
// far.
void Examiner::take_chosen(int64_t n, int64_t segment, const uint16_t* masks) {
  if (candidates_ > kList) flush();
  const int64_t begin = segment * shape_.segment, known = ask_.hits[n].patch - begin;
  const int64_t count = std::min(shape_.segment, r_.rows - begin);
  const auto slot = static_cast<int32_t>(n), row = static_cast<int32_t>(row_of(n));
  int32_t *slots = slots_.data() + candidates_, *rows = rows_.data() + candidates_,
          *others = others_.data() + candidates_;
  int64_t found = 0;
  constexpr int64_t kBits = kWord * kPanel;
  for (int64_t c = 0; c < count; c += kBits, masks += kWord) {
    uint64_t bits = 0;
    for (int64_t i = 0; i < kWord; ++i) bits |= static_cast<uint64_t>(masks[i]) << i * kPanel;
    if (count - c < kBits) bits &= (uint64_t{1} << (count - c)) - 1;
    if (known >= c && known < c + kBits) bits &= ~(uint64_t{1} << (known - c));
    for (; bits != 0; bits &= bits - 1, ++found) {
      slots[found] = slot;
      rows[found] = row;
      others[found] = static_cast<int32_t>(begin + c + __builtin_ctzll(bits));
    }
  }
  candidates_ += found;
}

// Collects the candidates whose scores are within the limits, without the segments of start_all().
void Examiner::collect() {
  const int64_t words = lanes_of(ask_.rows) / kLanes, stride = lanes_of(q_.rows) / kLanes;
  sort_rows(words);
  for (int64_t s = 0; s < segments_; ++s) {
    int64_t found = 0;
    for (int64_t image = 0; image < ask_.images; ++image) {
      const Summary summary = this->summary(ask_.image + image, ask_.column);
      const uint32_t* bits = summary.bits + s * stride + ask_.begin / kLanes;
      const uint32_t* close = summary.close_bits + s * stride + ask_.begin / kLanes;
      for (int64_t w = 0; w < words; ++w) {
        const size_t at = sized(image * words + w);
        const uint32_t rows = (close[w] & few_[at]) | (bits[w] & some_[at]) | whole_[at];
        for_bits(rows, (image * words + w) * kLanes, [&](int64_t row) {
          const int32_t n = slot_of_[sized(row)];
          found_[sized(found)] = n;
          found += fresh_ && ask_.wanted[n].segment == s ? 0 : 1;
        });
      }
    }
    for (int64_t at = 0; at < found; at += kBatch) {
      const int32_t* batch = found_.data() + at;
      const int64_t count = std::min(kBatch, found - at);
      fetch_rows(batch + count, std::min(kBatch, found - at - count));
      scan(batch, count, s, nullptr);
      for (int64_t b = 0; b < count; ++b) {
        take_chosen(batch[b], s, masks_.data() + b * mask_stride_);
      }
    }
  }
}

// Decides which segments a row scans: all of them (whole_), those of `bits` (some_) or those of
// `close_bits` (few_), the fewest that cannot miss a candidate.
void Examiner::sort_rows(int64_t words) {
  for (auto* bits : {&whole_, &some_, &few_}) bits->assign(sized(ask_.images * words), 0);
  for (int64_t n = 0; n < ask_.count; ++n) {
    const Wanted& wanted = ask_.wanted[n];
    const Summary summary = this->summary(ask_.image + wanted.image, ask_.column);
    const int64_t place = place_of(n);
    const double reach = shape_.largest_rho + limit_distance_[sized(n)] + bounds_of(n).rho;
    const int64_t most = limit(reach) >> shape_.shift;
    auto& rows = most < summary.close_outside[wanted.patch] ? few_
                 : most < summary.outside[wanted.patch]     ? some_
                                                            : whole_;
    rows[sized(place / kLanes)] |= 1u << place % kLanes;
    slot_of_[sized(place)] = static_cast<int32_t>(n);
  }
}

}  // namespace musc
