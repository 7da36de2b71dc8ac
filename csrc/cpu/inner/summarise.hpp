// Summarising the best scores of all segments, and choosing images by the summaries: 32 rows at a
// time, one in each lane. Included by the isa/*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/kernel_table.hpp"
#include "cpu/inner/tile.hpp"

namespace musc {
namespace {

MUSC_INLINE Shorts load_shorts(const uint16_t* from) {
  Shorts out;
  __builtin_memcpy(&out, from, sizeof out);
  return out;
}
MUSC_INLINE void store_shorts(uint16_t* to, Shorts value) {
  __builtin_memcpy(to, &value, sizeof value);
}

// Limits of the scores that a row's candidates should have, from an estimate of the exact distance
// to its best candidate: see SummaryArgs.
MUSC_INLINE void expected_limits(const SummaryArgs& a, const float* rho, const uint16_t* least,
                                 uint16_t* limits, uint16_t* close) {
  const float inverse = static_cast<float>(1.0 / a.scale), unit = 1 << a.shift;
  const float most = 65535.0f * unit;
  const float theirs = static_cast<float>(a.rho) * inverse;
  const auto score = [&](float distance) {
    const float limit = 0.5f * distance * distance;
    return static_cast<uint16_t>(static_cast<int32_t>(limit < most ? limit : most) >> a.shift);
  };
  for (int r = 0; r < kLanes; ++r) {
    const float own = rho[r] * inverse, twice = 2.0f * static_cast<float>(least[r] + 1) * unit;
    const float square = twice - own * own - theirs * theirs;
    const float known = __builtin_sqrtf(square > 0.0f ? square : 0.0f);
    limits[r] = score(a.ratio * known + own + theirs + a.slack);
    close[r] = score(__builtin_sqrtf(twice) + a.share * (own + theirs));
  }
}

// The least score of some segments, and the segment that has it.
struct Least {
  Shorts score = ~Shorts{}, segment{};
  MUSC_INLINE void take(Shorts other, Shorts where) {
    segment = other < score ? where : segment;
    score = other < score ? other : score;
  }
};

MUSC_INLINE Least least_of(const uint16_t* scores, int64_t segments, int64_t stride) {
  Least even, odd;  // two chains of instructions that do not wait for each other
  int64_t s = 0;
  for (; s + 2 <= segments; s += 2) {
    const Shorts where = Shorts{} + static_cast<uint16_t>(s);
    even.take(load_shorts(scores + s * stride), where);
    odd.take(load_shorts(scores + (s + 1) * stride), where + 1);
  }
  even.take(odd.score, odd.segment);
  if (s < segments) {
    even.take(load_shorts(scores + s * stride), Shorts{} + static_cast<uint16_t>(s));
  }
  return even;
}

// Marks the segments whose scores are at most `limit`, for 32 rows: bits [segments], `words` apart.
// The least score of the unmarked segments goes to `outside`.
template <class Ops>
MUSC_INLINE void mark(const SummaryArgs& a, const uint16_t* scores, const uint16_t* limit,
                      int64_t words, uint32_t* bits, uint16_t* outside) {
  const Shorts limits = load_shorts(limit);
  Shorts others = ~Shorts{};
  for (int64_t s = 0; s < a.segments; ++s) {
    bits[s * words] = Ops::split(scores + s * a.padded, limits, others);
  }
  store_shorts(outside, others);
}

template <class Ops>
void summarise_kernel(const SummaryArgs& a) {
  const int64_t words = (a.rows + kLanes - 1) / kLanes;
  for (int64_t w = 0; w < words; ++w) {
    const int64_t top = w * kLanes;
    const uint16_t* scores = a.scores + top;
    const Least best = least_of(scores, a.segments, a.padded);
    alignas(64) uint16_t least[kLanes], limit[kLanes], close[kLanes];
    float rho[kLanes] = {};
    for (int64_t r = 0; r < kLanes && top + r < a.rows; ++r) rho[r] = a.bounds[top + r].rho;
    store_shorts(least, best.score);
    expected_limits(a, rho, least, limit, close);
    mark<Ops>(a, scores, limit, words, a.bits + w, a.outside + top);
    mark<Ops>(a, scores, close, words, a.close_bits + w, a.close_outside + top);
    store_shorts(a.first + top, best.segment);
    store_shorts(a.nearest + top, best.score);
  }
}

// Marks the k smallest of the scores in `columns` columns, the first of equal ones, for 32 rows:
// finds the k-th smallest bit by bit, then how many scores equal to it still belong.
template <class Ops, class Count>
MUSC_INLINE void smallest_of(const SmallestArgs& a, const uint16_t* scores, uint32_t* bits) {
  typedef Count Counts __attribute__((vector_size(kLanes * sizeof(Count))));
  const auto count_below = [&](Shorts value) {
    Counts count{};
    for (int64_t c = 0; c < a.columns; ++c) {
      if (c == a.skip) continue;
      count -= __builtin_convertvector(load_shorts(scores + c * a.stride) < value, Counts);
    }
    return count;
  };
  const Counts wanted = Counts{} + static_cast<Count>(a.k);
  Shorts kth{};
  for (int bit = 15; bit >= 0; --bit) {
    const auto one = static_cast<uint16_t>(1u << bit);
    const Shorts next = kth | one;
    kth = __builtin_convertvector(count_below(next) < wanted, Shorts) != 0 ? next : kth;
  }
  Counts ties = wanted - count_below(kth);
  for (int64_t c = 0; c < a.columns; ++c) {
    bits[c * a.words] = 0;
    if (c == a.skip) continue;
    const Shorts score = load_shorts(scores + c * a.stride);
    const Counts tie =
        __builtin_convertvector(score == kth, Counts) & (ties != 0 ? ~Counts{} : Counts{});
    ties += tie;  // a set lane is -1: one tie less to take
    const Shorts chosen = Shorts(score < kth) | __builtin_convertvector(tie, Shorts);
    alignas(64) uint16_t missing[kLanes];
    store_shorts(missing, ~chosen);
    Shorts unused{};
    bits[c * a.words] = Ops::split(missing, Shorts{}, unused);
  }
}

template <class Ops>
void smallest_kernel(const SmallestArgs& a) {
  for (int64_t w = 0; w < a.words; ++w) {
    const uint16_t* scores = a.scores + w * kLanes;
    if (a.columns < 65536) {
      smallest_of<Ops, uint16_t>(a, scores, a.bits + w);
    } else {
      smallest_of<Ops, uint32_t>(a, scores, a.bits + w);
    }
  }
}

// Marks the scores that are at most the limits.
template <class Ops>
void within_kernel(const uint16_t* scores, const uint16_t* limits, int64_t words, uint32_t* bits) {
  Shorts unused{};
  for (int64_t w = 0; w < words; ++w) {
    bits[w] = Ops::split(scores + w * kLanes, load_shorts(limits + w * kLanes), unused);
  }
}

}  // namespace
}  // namespace musc
