// The blocked search kernel, written once and compiled for each instruction set. `Ops` supplies the
// vector of 16 scores and the operations on it. Included by the isa/*.cpp files alone:
// everything here has internal linkage, so that no copy built for a newer processor is linked into
// an older path (for the same reason no function of the standard library is used).
#pragma once

#include <cstdint>

#include "cpu/kernel_table.hpp"

#define MUSC_INLINE inline __attribute__((always_inline))

namespace musc {
namespace {

// The scores of kLanes rows.
typedef uint16_t Shorts __attribute__((vector_size(64)));

// A tile: kRows rows of `left` against PANELS panels of `right`, with the sums in registers. Its
// scores update two maxima. row_best: of every row over the tile's columns, 16 lanes that
// reduce_rows() reduces later (PER_PANEL: a separate vector for every panel, kTileRows vectors
// further on). right_best: of every column over the tile's rows.
template <class Ops, int PANELS, bool RIGHT, bool PER_PANEL>
MUSC_INLINE void tile(const uint32_t* left, const uint32_t* right, int64_t words,
                      const typename Ops::Score* left_init, const typename Ops::Score* right_init,
                      typename Ops::Vector* row_best, typename Ops::Score* right_best) {
  using Vector = typename Ops::Vector;
  constexpr int R = Ops::kRows;
  Vector sums[R][PANELS];
  Vector inits[PANELS];
#pragma GCC unroll 3
  for (int v = 0; v < PANELS; ++v) inits[v] = Ops::load(right_init + v * kPanel);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Vector init = Ops::broadcast(left_init[r]);
#pragma GCC unroll 3
    for (int v = 0; v < PANELS; ++v) sums[r][v] = Ops::add(init, inits[v]);
  }
  const uint32_t* column[PANELS];
  for (int v = 0; v < PANELS; ++v) column[v] = right + v * words * kPanel;
  for (int64_t k = 0; k < words; ++k) {
    typename Ops::Words columns[PANELS];
    for (int v = 0; v < PANELS; ++v) columns[v] = Ops::load_words(column[v] + k * kPanel);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto row = Ops::broadcast_word(left[r * words + k]);
      for (int v = 0; v < PANELS; ++v) sums[r][v] = Ops::dot(sums[r][v], row, columns[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < PANELS; ++v) {
      if (PER_PANEL) {
        row_best[v * kTileRows + r] = sums[r][v];
      } else {
        row_best[r] = Ops::max(row_best[r], sums[r][v]);
      }
    }
  }
  if (RIGHT) {
    for (int v = 0; v < PANELS; ++v) {
      Vector best = Ops::load(right_best + v * kPanel);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) best = Ops::max(best, sums[r][v]);
      Ops::store(right_best + v * kPanel, best);
    }
  }
}

// A strip: kTileRows rows against `panels` panels; updates the maxima of the columns in right_best.
template <class Ops>
struct Strip {
  const uint32_t* left;
  const uint32_t* right;
  int64_t words, panels;
  const typename Ops::Score* left_init;
  const typename Ops::Score* right_init;
  typename Ops::Score* right_best;
  int shift;

  template <int PANELS, bool RIGHT, bool PER_PANEL>
  MUSC_INLINE void run(int row, int64_t panel, typename Ops::Vector* row_best) const {
    tile<Ops, PANELS, RIGHT, PER_PANEL>(left + row * words, right + panel * words * kPanel, words,
                                    left_init + row, right_init + panel * kPanel, row_best + row,
                                    right_best + panel * kPanel);
  }

  // The row maxima over all panels, to out [8].
  template <bool RIGHT>
  MUSC_INLINE void run_all(typename Ops::Best* out) const {
    typename Ops::Vector row_best[kTileRows];
    for (int r = 0; r < kTileRows; ++r) row_best[r] = Ops::lowest();
    for (int r = 0; r < kTileRows; r += Ops::kRows) {
      int64_t p = 0;
      for (; p + Ops::kPanels <= panels; p += Ops::kPanels) {
        run<Ops::kPanels, RIGHT, false>(r, p, row_best);
      }
      for (; p < panels; ++p) run<1, RIGHT, false>(r, p, row_best);
    }
    Ops::reduce_rows(row_best, shift, out);
  }

  template <int PANELS, bool RIGHT>
  MUSC_INLINE void run_panels(int64_t panel, typename Ops::Best* out, int64_t stride) const {
    typename Ops::Vector row_best[PANELS * kTileRows];
    for (int r = 0; r < kTileRows; r += Ops::kRows) run<PANELS, RIGHT, true>(r, panel, row_best);
    for (int v = 0; v < PANELS; ++v) {
      Ops::reduce_rows(row_best + v * kTileRows, shift, out + (panel + v) * stride);
    }
  }

  // The row maxima of every panel, to out [panels][stride].
  template <bool RIGHT>
  MUSC_INLINE void run_per_panel(typename Ops::Best* out, int64_t stride) const {
    int64_t p = 0;
    for (; p + Ops::kPanels <= panels; p += Ops::kPanels) {
      run_panels<Ops::kPanels, RIGHT>(p, out, stride);
    }
    for (; p < panels; ++p) run_panels<1, RIGHT>(p, out, stride);
  }
};

// PER_PANEL: a segment is one panel. A tile still spans several panels, and reduces each
// separately; the rows of `left` are taken 16 at a time, so that the column maxima are those of one
// panel of rows.
template <class Ops, bool RIGHT, bool PER_PANEL>
void pair_blocked(const PairArgs<typename Ops::Score, typename Ops::Best>& args) {
  using Score = typename Ops::Score;
  alignas(64) Score right_best[kMaxSegment];
  const int64_t segment = PER_PANEL ? kPanel : args.segment;
  const int64_t block = PER_PANEL ? kSegmentUnit : segment;  // columns at a time
  for (int64_t begin = 0; begin < args.right_padded; begin += block) {
    const int64_t left_over = args.right_padded - begin;
    const int64_t width = left_over < block ? left_over : block;
    typename Ops::Best* left_best = args.left_best + (begin / segment) * args.left_padded;
    for (int64_t top = 0; top < args.left_padded; top += segment) {
      const int64_t bottom = top + segment < args.left_padded ? top + segment : args.left_padded;
      if (RIGHT) {
        for (int64_t c = 0; c < width; c += kPanel) Ops::store(right_best + c, Ops::lowest());
      }
      for (int64_t row = top; row < bottom; row += kTileRows) {
        const Strip<Ops> strip{args.left + row * args.words, args.right + begin * args.words,
                               args.words,                   width / kPanel,
                               args.left_init + row,         args.right_init + begin,
                               right_best,                   args.shift};
        if (PER_PANEL) {
          strip.template run_per_panel<RIGHT>(left_best + row, args.left_padded);
        } else {
          strip.template run_all<RIGHT>(left_best + row);
        }
      }
      if (RIGHT) {
        typename Ops::Best* out = args.right_best + (top / segment) * args.right_padded + begin;
        for (int64_t c = 0; c < width; c += kPanel) {
          Ops::store_best(out + c, Ops::load(right_best + c), args.shift);
        }
      }
    }
  }
}

template <class Ops, bool RIGHT>
void pair_either(const PairArgs<typename Ops::Score, typename Ops::Best>& args) {
  if (args.segment == kPanel) {
    pair_blocked<Ops, RIGHT, true>(args);
  } else {
    pair_blocked<Ops, RIGHT, false>(args);
  }
}

template <class Ops>
void pair_kernel(const PairArgs<typename Ops::Score, typename Ops::Best>& args) {
  if (args.right_best != nullptr) {
    pair_either<Ops, true>(args);
  } else {
    pair_either<Ops, false>(args);
  }
}

}  // namespace
}  // namespace musc
