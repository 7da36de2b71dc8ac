// The summary of a pair of images, which the first pass writes and the second reads: of every row
// of one image, its best scores in the segments of the other. Scores of all segments would fill
// most of a search's memory; a summary takes 8 bytes a row and 2 bits a row and segment.
#pragma once

#include <cstdint>

#include "cpu/kernel_table.hpp"

namespace musc {

inline int64_t lanes_of(int64_t rows) { return (rows + kLanes - 1) / kLanes * kLanes; }

// body(first + n) for every bit n that is set, ascending.
template <class Body>
inline void for_bits(uint32_t bits, int64_t first, const Body& body) {
  for (; bits != 0; bits &= bits - 1) body(first + __builtin_ctz(bits));
}

// The size of a summary, in 16-bit words.
inline int64_t summary_size(int64_t rows, int64_t segments) {
  return lanes_of(rows) * 4 + lanes_of(rows) / 16 * segments * 2;
}

template <class Score, class Bits>
struct SummaryAt {
  Score* nearest;  // [lanes]: a row's best score, stored as (-score) >> shift: smaller is nearer
  Score* first;    // [lanes]: the segment that has the best score
  // bits: the segments expected to contain the row's candidates if the image is one of its k
  // nearest, [segments][lanes / 32]. close_bits: fewer segments, for images that can barely be one
  // of the k. outside, close_outside [lanes]: the lowest stored score of all unmarked segments. If
  // it exceeds the limit of the row, the unmarked segments contain no candidate and are skipped
  // safely.
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
