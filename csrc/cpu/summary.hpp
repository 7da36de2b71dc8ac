// What the first pass keeps of a pair of images, for the rows of one against the other. Scores of all
// segments would be most of a search's memory; these are 8 bytes a row and 2 bits a row and segment.
#pragma once

#include <cstdint>

#include "cpu/kernels.hpp"

namespace musc {

inline int64_t lanes_of(int64_t rows) { return (rows + kLanes - 1) / kLanes * kLanes; }

// body(first + n) for every bit n that is set, ascending.
template <class Body>
inline void for_bits(uint32_t bits, int64_t first, const Body& body) {
  for (; bits != 0; bits &= bits - 1) body(first + __builtin_ctz(bits));
}

// In 16-bit words, for `rows` rows and the other image's segments.
inline int64_t summary_size(int64_t rows, int64_t segments) {
  return lanes_of(rows) * 4 + lanes_of(rows) / 16 * segments * 2;
}

template <class Score, class Bits>
struct SummaryAt {
  Score* nearest;  // [lanes]: a row's least score, as kept: (-score) >> shift
  Score* first;    // [lanes]: the segment of its best score
  // The segments whose scores are near its best one, [segments][lanes / 32] a bit each: so near that
  // its candidates should lie there if the image is among its nearest; and nearer, for an image that
  // only just may be. And what the scores of all others are at least, [lanes].
  Bits *bits, *close_bits;
  Score *outside, *close_outside;

  SummaryAt(Score* from, int64_t rows, int64_t segments)
      : nearest(from), first(from + lanes_of(rows)),
        bits(reinterpret_cast<Bits*>(from + 4 * lanes_of(rows))),
        close_bits(bits + segments * lanes_of(rows) / kLanes), outside(first + lanes_of(rows)),
        close_outside(outside + lanes_of(rows)) {}
};
using Summary = SummaryAt<const uint16_t, const uint32_t>;
using SummaryOut = SummaryAt<uint16_t, uint32_t>;

}  // namespace musc
