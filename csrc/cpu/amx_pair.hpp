// A pair of images on the tile unit. Included by isa_amx.cpp alone, see tile.hpp.
//
// The tile unit cannot take a maximum, so its sums go through the nearest cache to the vector unit.
// A step multiplies 32 rows by 32 columns. Its sums leave the tiles when the next step needs them, and
// the vector unit folds them during the step after that, some rows between two multiplications: by
// then they can be read, and neither unit waits for the other.
#pragma once

#include "cpu/amx_tiles.hpp"
#include "cpu/ops_vnni.hpp"

namespace musc {
namespace {

// The maxima of a step that is still to be folded, eight rows at a time: what they need and go to.
// Where the step has one tile of columns, the second's sums are lowest and go to `unused`.
struct Fold {
  const int32_t* sums;       // [32][32]
  const int32_t* left_init;  // of its rows
  int groups = 0, next = 0;  // of eight rows
  // Segments of one panel: every tile's maxima are results. Else they are folded on.
  uint16_t *low_out, *high_out;    // of its rows
  __m512i* row_best;               // of its rows
  int32_t *low_best, *high_best;   // of its columns; segments of one panel: of one tile of rows
};

// APART: segments of one panel.
template <bool RIGHT, bool APART>
class Pair {
 public:
  explicit Pair(const PairInt& args) : a_(args) { store(lowest_, lowest()); }

  void run() {
    const int64_t columns = APART ? a_.right_padded : a_.segment;
    const int64_t rows = APART ? a_.left_padded : a_.segment;
    for (begin_ = 0; begin_ < a_.right_padded; begin_ += columns) {
      end_ = least(begin_ + columns, a_.right_padded);
      for (int64_t top = 0; top < a_.left_padded; top += rows) {
        block(top, least(top + rows, a_.left_padded));
      }
    }
  }

 private:
  struct Step {
    int64_t row, column;
    int rows, columns;  // tiles
    __m512i* row_best;
    bool last;          // of its rows in this segment
  };
  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  // Rows [top, bottom) against columns [begin_, end_): one segment of each, or all.
  void block(int64_t top, int64_t bottom) {
    const int64_t folded = APART ? 2 * kWidth : end_ - begin_;
    for (int64_t c = 0; RIGHT && c < folded; c += kSide) store(column_best_ + c, lowest());
    int turn = 0;
    for (int64_t row = top; row < bottom; row += kWidth, turn = (turn + 1) % 4) {
      if (!APART) {
        for (int r = 0; r < kWidth; ++r) row_best_[turn][r] = lowest();
      }
      for (int64_t column = begin_; column < end_; column += kWidth) {
        take({row, column, bottom - row > kSide ? 2 : 1, end_ - column > kSide ? 2 : 1,
              row_best_[turn], column + kWidth >= end_});
      }
    }
    for (int more = 0; more < 2; ++more) {
      store_sums(0, 4);
      advance(Step{});
    }
    if (RIGHT && !APART) {
      uint16_t* out = a_.right_best + top / a_.segment * a_.right_padded;
      for (int64_t c = begin_; c < end_; c += kSide) keep(column_best_ + c - begin_, out + c);
    }
  }

  void take(const Step& step) {
    if (step.rows == 2) {
      step.columns == 2 ? multiply<2, 2>(step) : multiply<2, 1>(step);
    } else {
      step.columns == 2 ? multiply<1, 2>(step) : multiply<1, 1>(step);
    }
    advance(step);
  }

  // The step behind is done with, the next ones move up.
  void advance(const Step& step) {
    finish();
    behind_ = last_;
    last_ = step;
    turn_ ^= 1;
    begin_fold();
  }

  // What is to be folded of a step whose sums have left the tiles.
  void begin_fold() {
    const bool two = behind_.columns == 2;
    fold_.sums = sums_[turn_ ^ 1];
    fold_.left_init = a_.left_init + behind_.row;
    fold_.groups = 2 * behind_.rows;
    fold_.next = 0;
    if (APART) {
      fold_.low_out = a_.left_best + behind_.column / kPanel * a_.left_padded + behind_.row;
      fold_.high_out = two ? fold_.low_out + a_.left_padded : unused_;
    }
    fold_.row_best = behind_.row_best;
    fold_.low_best = column_best_ + (APART ? 0 : behind_.column - begin_);
    fold_.high_best = fold_.low_best + kSide;
  }

  // The sums of the last step, tiles [first, last): they leave just before the next ones need their
  // tiles, so that the tile unit has something to do meanwhile.
  MUSC_INLINE void store_sums(int first, int last) {
    constexpr int kBytes = kWidth * static_cast<int>(sizeof(int32_t));
    if (first <= 0 && 0 < last) _tile_stored(0, sums_[turn_], kBytes);
    if (first <= 1 && 1 < last) _tile_stored(1, sums_[turn_] + kSide, kBytes);
    if (first <= 2 && 2 < last) _tile_stored(2, sums_[turn_] + kSide * kWidth, kBytes);
    if (first <= 3 && 3 < last) _tile_stored(3, sums_[turn_] + kSide * kWidth + kSide, kBytes);
  }

  // The sums of `step`, and meanwhile the maxima of the step before the last.
  template <int ROWS, int COLUMNS>
  void multiply(const Step& step) {
    const int64_t stride = a_.words * static_cast<int64_t>(sizeof(uint32_t));
    const uint32_t* left = a_.left + step.row * a_.words;
    const uint32_t* right = a_.right + step.column * a_.words;
    const int32_t* low_init = a_.right_init + step.column;  // what the sums of every row start from
    const int32_t* high_init = COLUMNS > 1 ? low_init + kSide : lowest_;
    const auto next = [&](bool first) __attribute__((always_inline)) {
      _tile_loadd(4, left, stride);
      _tile_loadd(6, right, kTileBytes);
      if (first) {
        store_sums(0, 1);
        _tile_loadd(0, low_init, 0);
      }
      _tile_dpbsud(0, 4, 6);
      if (COLUMNS > 1) _tile_loadd(7, right + a_.words * kPanel, kTileBytes);
      if (first) {
        store_sums(1, 2);
        _tile_loadd(1, high_init, 0);
      }
      if (COLUMNS > 1) _tile_dpbsud(1, 4, 7);
      if (ROWS > 1) _tile_loadd(5, left + kSide * a_.words, stride);
      if (first) {
        store_sums(2, 3);
        _tile_loadd(2, low_init, 0);
      }
      if (ROWS > 1) _tile_dpbsud(2, 5, 6);
      if (first) {
        store_sums(3, 4);
        _tile_loadd(3, high_init, 0);
      }
      if (ROWS > 1 && COLUMNS > 1) _tile_dpbsud(3, 5, 7);
      left += kTileWords;
      right += kTileWords * kPanel;
    };
    const int64_t steps = a_.words / kTileWords;
    int64_t due = 0;
    for (int64_t k = 0; k < steps; ++k) {
      k == 0 ? next(true) : next(false);
      for (due += fold_.groups; due >= steps; due -= steps) fold();
    }
  }

  // The maxima of the next eight rows of the step behind.
  MUSC_INLINE void fold() {
    const int top = 8 * fold_.next++;
    const int32_t* sums = fold_.sums + top * kWidth;
    const int32_t* left_init = fold_.left_init + top;
    __m512i apart[2][8], low_best = lowest(), high_best = lowest();
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      const __m512i low = load(sums + r * kWidth), high = load(sums + r * kWidth + kSide);
      if (APART) {
        apart[0][r] = low;
        apart[1][r] = high;
      } else {
        __m512i& best = fold_.row_best[top + r];
        best = Vnni::max(best, Vnni::max(low, high));
      }
      if (RIGHT) {
        const __m512i init = _mm512_set1_epi32(left_init[r]);
        low_best = Vnni::max(low_best, _mm512_add_epi32(low, init));
        high_best = Vnni::max(high_best, _mm512_add_epi32(high, init));
      }
    }
    if (APART) {
      Vnni::reduce_rows(apart[0], left_init, a_.shift, fold_.low_out + top);
      Vnni::reduce_rows(apart[1], left_init, a_.shift, fold_.high_out + top);
    }
    if (RIGHT) {
      int32_t* low = fold_.low_best + (APART ? top / kSide * kWidth : 0);
      int32_t* high = fold_.high_best + (APART ? top / kSide * kWidth : 0);
      store(low, Vnni::max(load(low), low_best));
      store(high, Vnni::max(load(high), high_best));
    }
  }

  // The last maxima of the step behind, and what becomes final with them.
  void finish() {
    while (fold_.next < fold_.groups) fold();
    if (APART && RIGHT) {
      for (int r = 0; r < behind_.rows; ++r) {
        uint16_t* out = a_.right_best + (behind_.row / kPanel + r) * a_.right_padded;
        for (int c = 0; c < behind_.columns; ++c) {
          const int64_t column = behind_.column + c * kSide;
          keep(column_best_ + r * kWidth + c * kSide, out + column);
        }
      }
      for (int c = 0; c < 2 * kWidth; c += kSide) store(column_best_ + c, lowest());
    }
    if (!APART && behind_.last) {
      uint16_t* out = a_.left_best + begin_ / a_.segment * a_.left_padded + behind_.row;
      for (int r = 0; r < kSide * behind_.rows; r += 8) {
        Vnni::reduce_rows(behind_.row_best + r, a_.left_init + behind_.row + r, a_.shift, out + r);
      }
    }
  }

  void keep(const int32_t* best, uint16_t* out) const {
    Vnni::store_best(out, load(best), a_.shift);
  }
  static MUSC_INLINE __m512i load(const int32_t* from) { return Vnni::load(from); }
  static MUSC_INLINE void store(int32_t* to, __m512i value) { Vnni::store(to, value); }
  static MUSC_INLINE __m512i lowest() { return Vnni::lowest(); }

  const PairInt a_;
  const Tiles tiles_;
  int64_t begin_ = 0, end_ = 0;  // of the columns at hand
  Step last_{}, behind_{};       // the last step; the one before, what fold_ is about
  Fold fold_{};
  int turn_ = 0;
  alignas(64) int32_t sums_[2][kWidth * kWidth] = {};  // of the last two steps
  __m512i row_best_[4][kWidth];
  alignas(64) int32_t column_best_[kMaxSegment + kSide];
  alignas(64) int32_t lowest_[kSide];
  uint16_t unused_[kWidth];
};

}  // namespace
}  // namespace musc
