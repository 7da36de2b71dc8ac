// A pair of images on the tile unit. Included by amx.cpp alone, see tile.hpp.
//
// The tile unit cannot take a maximum, so its sums go through the nearest cache to the vector unit.
// A step multiplies 32 rows by 32 columns, in a pipeline of three stages: the tile unit multiplies
// one step; the sums of the step before leave the tiles just before their tiles are needed again;
// and meanwhile the vector unit folds the sums of the step before that into maxima, some rows
// between two multiplications. So neither unit waits for the other.
#pragma once

#include "cpu/isa/amx_tiles.hpp"
#include "cpu/isa/ops_vnni.hpp"

namespace musc {
namespace {

// The sums of a step that the vector unit folds, eight rows at a time, and where their maxima go.
// If the step has one tile of columns only, the sums of the second tile are lowest and go to
// `unused_`.
struct Fold {
  const int32_t* sums;       // [32][32]
  const int32_t* left_init;  // of its rows
  int groups = 0, next = 0;  // of eight rows
  // PER_PANEL: every tile's maxima are results. Else they accumulate in row_best and low/high_best.
  uint16_t *low_out, *high_out;    // of its rows
  __m512i* row_best;               // of its rows
  int32_t *low_best, *high_best;   // of its columns; PER_PANEL: of one tile of rows
};

// RIGHT: the maxima of the columns are wanted too. PER_PANEL: a segment is one panel.
template <bool RIGHT, bool PER_PANEL>
class Pair {
 public:
  explicit Pair(const PairInt& args) : a_(args) { store(lowest_, lowest()); }

  void run() {
    const int64_t columns = PER_PANEL ? a_.right_padded : a_.segment;
    const int64_t rows = PER_PANEL ? a_.left_padded : a_.segment;
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
    const int64_t folded = PER_PANEL ? 2 * kWidth : end_ - begin_;
    for (int64_t c = 0; RIGHT && c < folded; c += kSide) store(column_best_ + c, lowest());
    int turn = 0;
    for (int64_t row = top; row < bottom; row += kWidth, turn = (turn + 1) % 4) {
      if (!PER_PANEL) {
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
    if (RIGHT && !PER_PANEL) {
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

  // Folds the rest of the oldest step, then shifts the pipeline.
  void advance(const Step& step) {
    finish();
    folded_ = stored_;
    stored_ = step;
    turn_ ^= 1;
    begin_fold();
  }

  // Sets up the fold of the step whose sums have left the tiles.
  void begin_fold() {
    const bool two = folded_.columns == 2;
    fold_.sums = sums_[turn_ ^ 1];
    fold_.left_init = a_.left_init + folded_.row;
    fold_.groups = 2 * folded_.rows;
    fold_.next = 0;
    if (PER_PANEL) {
      fold_.low_out = a_.left_best + folded_.column / kPanel * a_.left_padded + folded_.row;
      fold_.high_out = two ? fold_.low_out + a_.left_padded : unused_;
    }
    fold_.row_best = folded_.row_best;
    fold_.low_best = column_best_ + (PER_PANEL ? 0 : folded_.column - begin_);
    fold_.high_best = fold_.low_best + kSide;
  }

  // Stores the sums of the last step, tiles [first, last): just before the next step needs each
  // tile, so that the tile unit multiplies in between.
  MUSC_INLINE void store_sums(int first, int last) {
    constexpr int kBytes = kWidth * static_cast<int>(sizeof(int32_t));
    if (first <= 0 && 0 < last) _tile_stored(0, sums_[turn_], kBytes);
    if (first <= 1 && 1 < last) _tile_stored(1, sums_[turn_] + kSide, kBytes);
    if (first <= 2 && 2 < last) _tile_stored(2, sums_[turn_] + kSide * kWidth, kBytes);
    if (first <= 3 && 3 < last) _tile_stored(3, sums_[turn_] + kSide * kWidth + kSide, kBytes);
  }

  // Multiplies `step`, and between the multiplications folds the step before the last.
  template <int ROWS, int COLUMNS>
  void multiply(const Step& step) {
    const int64_t stride = a_.words * static_cast<int64_t>(sizeof(uint32_t));
    const uint32_t* left = a_.left + step.row * a_.words;
    const uint32_t* right = a_.right + step.column * a_.words;
    const int32_t* low_init = a_.right_init + step.column;  // where the sums of every row start
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

  // Folds the next eight rows.
  MUSC_INLINE void fold() {
    const int top = 8 * fold_.next++;
    const int32_t* sums = fold_.sums + top * kWidth;
    const int32_t* left_init = fold_.left_init + top;
    __m512i tiles[2][8], low_best = lowest(), high_best = lowest();
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      const __m512i low = load(sums + r * kWidth), high = load(sums + r * kWidth + kSide);
      if (PER_PANEL) {
        tiles[0][r] = low;
        tiles[1][r] = high;
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
    if (PER_PANEL) {
      Vnni::reduce_rows(tiles[0], left_init, a_.shift, fold_.low_out + top);
      Vnni::reduce_rows(tiles[1], left_init, a_.shift, fold_.high_out + top);
    }
    if (RIGHT) {
      int32_t* low = fold_.low_best + (PER_PANEL ? top / kSide * kWidth : 0);
      int32_t* high = fold_.high_best + (PER_PANEL ? top / kSide * kWidth : 0);
      store(low, Vnni::max(load(low), low_best));
      store(high, Vnni::max(load(high), high_best));
    }
  }

  // Folds the remaining rows, and stores the maxima that no later step changes.
  void finish() {
    while (fold_.next < fold_.groups) fold();
    if (PER_PANEL && RIGHT) {
      for (int r = 0; r < folded_.rows; ++r) {
        uint16_t* out = a_.right_best + (folded_.row / kPanel + r) * a_.right_padded;
        for (int c = 0; c < folded_.columns; ++c) {
          const int64_t column = folded_.column + c * kSide;
          keep(column_best_ + r * kWidth + c * kSide, out + column);
        }
      }
      for (int c = 0; c < 2 * kWidth; c += kSide) store(column_best_ + c, lowest());
    }
    if (!PER_PANEL && folded_.last) {
      uint16_t* out = a_.left_best + begin_ / a_.segment * a_.left_padded + folded_.row;
      for (int r = 0; r < kSide * folded_.rows; r += 8) {
        Vnni::reduce_rows(folded_.row_best + r, a_.left_init + folded_.row + r, a_.shift, out + r);
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
  Step stored_{}, folded_{};     // the last step, whose sums are in the tiles; the one being folded
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
