// Local matching on the tile unit. Included by amx.cpp alone, see tile.hpp.
//
// The unit multiplies bytes, so a value q of int16 is kept as 256 h + l, h signed and l unsigned,
// and q q' = 65536 h h' + 256 (h l' + l h') + l l': four products, whose sums are put together in
// 32 bits. Wrapping on the way does not matter, since the whole fits: the scores have the bits that
// every other instruction set finds.
//
// Of 64 channels a row of `left` holds 16 words of h, then 16 of l; so does a panel of `right`,
// where each of these is a tile as the unit reads it.
#pragma once

#include "cpu/inner/place.hpp"
#include "cpu/isa/amx_tiles.hpp"
#include "cpu/isa/ops_vnni.hpp"

namespace musc {
namespace {

constexpr int64_t kSplitWords = 2 * kTileWords;  // of 64 channels of int16
constexpr int64_t kFolded = 4;                   // rows of a tile, a part of kTileRows

// Rounds to int16, and splits the values in place.
void round_row_amx(RowOfPairs& row) {
  const int64_t words = row.words, whole = (row.channels + 1) / 2;
  row.words = whole;
  round_row_kernel(row);
  row.words = words;
  for (int64_t k = whole; k < words; ++k) row.out[k] = 0;
  for (int64_t k = 0; k < words; k += kSplitWords) {
    uint32_t* at = row.out + k;
    const __m512i first = _mm512_loadu_si512(at), second = _mm512_loadu_si512(at + kTileWords);
    const auto put = [at](int64_t word, __m512i values) __attribute__((always_inline)) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + word), _mm512_cvtepi16_epi8(values));
    };
    put(0, _mm512_srai_epi16(first, 8));
    put(kTileWords / 2, _mm512_srai_epi16(second, 8));
    put(kTileWords, first);
    put(kTileWords + kTileWords / 2, second);
  }
}

// The products of a call. One step multiplies 16 rows with a panel of one place; meanwhile the
// vector unit keeps the best scores of the step before, some rows between two multiplications.
// The places come innermost: the rows and their best scores then stay in the first cache.
class PlaceProducts {
 public:
  explicit PlaceProducts(const BestArgs& args) : a_(args) {}

  void run() {
    const int64_t whole = a_.rows / kSide * kSide;
    if (whole > 0) run_rows<kSide>(0, whole);
    if (whole < a_.rows) run_rows<kTileRows>(whole, a_.rows);
  }

 private:
  struct Step {
    int64_t top = 0, panel = 0;
    const OtherPlace* other = nullptr;  // null: no step
  };

  // ROWS: of a step.
  template <int ROWS>
  void run_rows(int64_t first, int64_t last) {
    const Tiles tiles(ROWS);
    kept_ = stored_ = Step{};
    for (int64_t panel = 0; panel < a_.panels; ++panel) {
      for (int64_t top = first; top < last; top += ROWS) {
        for (int64_t n = 0; n < a_.count; ++n) multiply<ROWS>({top, panel, a_.others + n});
      }
    }
    store_sums();
    shift({});
    while (done_ < ROWS) keep();
  }

  void shift(const Step& step) {
    kept_ = stored_;
    stored_ = step;
    turn_ ^= 1;
    done_ = 0;
  }

  // Stores the sums of the step before.
  MUSC_INLINE void store_sums() {
    _tile_stored(0, sums_[turn_][0], kTileBytes);
    _tile_stored(1, sums_[turn_][1], kTileBytes);
    _tile_stored(2, sums_[turn_][2], kTileBytes);
    _tile_stored(3, sums_[turn_][3], kTileBytes);
  }
  MUSC_INLINE void store_sums_and_clear() {
    store_sums();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }

  // Tiles 0 to 3 are the sums of h h', h l', l h' and l l'; 4 and 5 are of rows, 6 and 7 of columns.
  // All four loads come first: where another thread shares the core, loads between the products
  // take longer.
  template <int ROWS>
  void multiply(const Step& step) {
    const int64_t stride = a_.words * static_cast<int64_t>(sizeof(uint32_t));
    const uint32_t* left = a_.left + step.top * a_.words;
    const uint32_t* right = step.other->right + step.panel * a_.words * kPanel;
    const auto next = [&](bool first) __attribute__((always_inline)) {
      _tile_loadd(4, left, stride);
      _tile_loadd(6, right, kTileBytes);
      _tile_loadd(7, right + kTileWords * kPanel, kTileBytes);
      _tile_loadd(5, left + kTileWords, stride);
      if (first) store_sums_and_clear();
      _tile_dpbssd(0, 4, 6);
      _tile_dpbsud(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbuud(3, 5, 7);
      left += kSplitWords;
      right += kSplitWords * kPanel;
    };
    next(true);
    shift(step);
    const int64_t steps = a_.words / kSplitWords;
    int64_t due = ROWS / kFolded;
    for (; due >= steps; due -= steps) keep();
    for (int64_t k = 1; k < steps; ++k) {
      next(false);
      for (due += ROWS / kFolded; due >= steps; due -= steps) keep();
    }
  }

  // Keeps the best scores of the next rows of the step before.
  MUSC_INLINE void keep() {
    if (kept_.other == nullptr) return;
    const int32_t* sums = sums_[turn_ ^ 1][0] + done_ * kPanel;
    const int64_t row = kept_.top + done_;
    const int64_t block = row / kTileRows * a_.panels + kept_.panel;
    const int64_t at = (block * kTileRows + row % kTileRows) * kBest * kPanel;
    done_ += kFolded;
    if (kept_.other->back != nullptr) {
      keep_rows<true>(sums, row, at);
    } else {
      keep_rows<false>(sums, row, at);
    }
  }

  template <bool BACK>
  MUSC_INLINE void keep_rows(const int32_t* sums, int64_t row, int64_t at) {
    const OtherPlace other = *kept_.other;
    const __m512i right_init = Vnni::load(other.init + kept_.panel * kPanel);
    const int32_t* left_init = a_.init + row;
    int32_t *best = a_.best + at, *back = BACK ? other.back + at : nullptr;
#pragma GCC unroll 4
    for (int64_t r = 0; r < kFolded; ++r) {
      const auto sum = [&](int tile) __attribute__((always_inline)) {
        return Vnni::load(sums + (tile * kSide + r) * kPanel);
      };
      __m512i score = _mm512_slli_epi32(sum(0), 8);
      score = Vnni::add(score, Vnni::add(sum(1), sum(2)));
      score = Vnni::add(_mm512_slli_epi32(score, 8), sum(3));
      score = Vnni::add(score, Vnni::add(right_init, Vnni::broadcast(left_init[r])));
      keep_best<Vnni>(Vnni::key(score, a_.clear, other.slot), best + r * kBest * kPanel);
      if (BACK) {
        keep_best<Vnni>(Vnni::key(score, a_.clear, other.back_slot), back + r * kBest * kPanel);
      }
    }
  }

  const BestArgs a_;
  Step stored_, kept_;      // the last step, whose sums are in the tiles; the one before
  int turn_ = 0;
  int64_t done_ = 0;        // rows of kept_
  alignas(64) int32_t sums_[2][4][kSide * kPanel];  // of the last two steps
};

void best_amx(const BestArgs& args) { PlaceProducts(args).run(); }

}  // namespace
}  // namespace musc
