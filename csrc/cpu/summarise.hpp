// From the best scores of all segments to a summary of them, and the choice of images by it; 32 rows
// at a time, a lane each. Included by the isa_*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/kernels.hpp"
#include "cpu/tile.hpp"

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
MUSC_INLINE uint16_t short_of(int64_t value) {
  return static_cast<uint16_t>(value < 65535 ? value : 65535);
}

// Where a row's candidates should lie: the scores within what the best one's exact distance will
// allow. By how much that distance falls short of the rounded one is known on average.
MUSC_INLINE void expected_limits(const SummaryArgs& a, const float* rho, const uint16_t* least,
                                 uint16_t* limits, uint16_t* close) {
  const float inverse = static_cast<float>(1.0 / a.scale), unit = 1 << a.shift;
  const float most = 65535.0f * unit;
  const float theirs = static_cast<float>(a.usual) * inverse;
  const auto score = [&](float reach) {
    const float limit = 0.5f * reach * reach;
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

// Scores above which those of a segment rounded worse than usual, by up to `excess` steps, are above
// the limits once they are lowered by it.
MUSC_INLINE void raise(const uint16_t* limits, double excess, int shift, uint16_t* raised) {
  const double twice = 2 << shift;
  for (int r = 0; r < kLanes; ++r) {
    const double root = __builtin_sqrt(twice * (limits[r] + 1)) + excess;
    const double limit = root * root * 0.5 * (1.0 + 1e-12) + 1.0;
    raised[r] = short_of(static_cast<int64_t>(limit < 4e9 ? limit : 4e9) >> shift);
  }
}

// least = min(least, what `scores` become when lowered by `excess`), rounded down.
MUSC_INLINE void lower(const uint16_t* scores, double excess, int shift, uint16_t* least) {
  const double twice = 2 << shift;
  for (int r = 0; r < kLanes; ++r) {
    double root = __builtin_sqrt(twice * scores[r]) - excess;
    root = root > 0.0 ? root : 0.0;
    const int32_t lowered = static_cast<int32_t>(root * root * 0.5) >> shift;
    least[r] = static_cast<uint16_t>(lowered < least[r] ? lowered : least[r]);
  }
}

// The least of some segments' scores, and its segment.
struct Least {
  Shorts score = ~Shorts{}, segment{};
  MUSC_INLINE void take(Shorts other, Shorts where) {
    segment = other < score ? where : segment;
    score = other < score ? other : score;
  }
};

MUSC_INLINE Least least_of(const uint16_t* scores, int64_t segments, int64_t stride) {
  Least even, odd;  // Neither waits for the other.
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

// The bits of 32 rows' scores up to `limit`, [segments] `words` apart; to `outside` the least of the
// others. Those of a segment rounded worse than usual count as lowered by up to `excess`.
template <class Ops>
MUSC_INLINE void mark(const SummaryArgs& a, const uint16_t* scores, const uint16_t* limit,
                      double excess, int64_t words, uint32_t* bits, uint16_t* outside) {
  alignas(64) uint16_t raised[kLanes], out[kLanes];
  if (excess > 0.0) raise(limit, excess, a.shift, raised);
  const Shorts limits = load_shorts(limit), higher = excess > 0.0 ? load_shorts(raised) : limits;
  Shorts others = ~Shorts{}, unused{};
  uint32_t inside = ~0u;
  for (int64_t s = 0; s < a.segments; ++s) {
    const bool worse = a.segment_rho[s] > a.usual;
    const uint16_t* of = scores + s * a.padded;
    if (worse) {
      inside &= bits[s * words] = Ops::split(of, higher, unused);
    } else {
      bits[s * words] = Ops::split(of, limits, others);
    }
  }
  store_shorts(out, others);
  for (int r = 0; inside != ~0u && r < kLanes; ++r) {
    const uint16_t above = short_of(limit[r] + 1);
    if ((inside >> r & 1u) == 0 && above < out[r]) out[r] = above;
  }
  store_shorts(outside, load_shorts(out));
}

template <class Ops>
void summarise_kernel(const SummaryArgs& a) {
  double excess = 0.0;  // of the worst segment, in steps
  for (int64_t s = 0; s < a.segments; ++s) {
    const double more = (static_cast<double>(a.segment_rho[s]) - a.usual) / a.scale;
    excess = more > excess ? more : excess;
  }
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
    mark<Ops>(a, scores, limit, excess, words, a.bits + w, a.outside + top);
    mark<Ops>(a, scores, close, excess, words, a.close_bits + w, a.close_outside + top);
    Shorts worse = ~Shorts{};
    for (int64_t s = 0; excess > 0.0 && s < a.segments; ++s) {
      const Shorts score = load_shorts(scores + s * a.padded);
      if (a.segment_rho[s] > a.usual) worse = score < worse ? score : worse;
    }
    alignas(64) uint16_t lowered[kLanes];
    store_shorts(lowered, worse);
    if (excess > 0.0) lower(lowered, excess, a.shift, least);
    store_shorts(a.first + top, best.segment);
    store_shorts(a.nearest + top, load_shorts(least));
  }
}

// Bits of the k smallest of `columns` scores, of equal ones the first: for 32 rows, a bit each.
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
    const Shorts next = kth | static_cast<uint16_t>(1u << bit);
    kth = __builtin_convertvector(count_below(next) < wanted, Shorts) != 0 ? next : kth;
  }
  Counts ties = wanted - count_below(kth);
  for (int64_t c = 0; c < a.columns; ++c) {
    bits[c * a.words] = 0;
    if (c == a.skip) continue;
    const Shorts score = load_shorts(scores + c * a.stride);
    const Counts tie = __builtin_convertvector(score == kth, Counts) & (ties != 0 ? ~Counts{} : Counts{});
    ties += tie;  // minus one
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

// Bits of the scores up to the limits.
template <class Ops>
void within_kernel(const uint16_t* scores, const uint16_t* limits, int64_t words, uint32_t* bits) {
  Shorts unused{};
  for (int64_t w = 0; w < words; ++w) {
    bits[w] = Ops::split(scores + w * kLanes, load_shorts(limits + w * kLanes), unused);
  }
}

}  // namespace
}  // namespace musc
