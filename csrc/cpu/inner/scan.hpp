// Scanning: a few rows of one image against the panels of a segment of another, a second time, with
// the bound of each row. Included by the isa/*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/inner/tile.hpp"
#include "cpu/kernel_table.hpp"

namespace musc {
namespace {

// ROWS rows against PANELS panels. Each sum has SPLIT accumulators, so that no dot product waits
// for the previous one.
template <class Ops, bool TOGETHER, int ROWS, int PANELS>
MUSC_INLINE void scan_tile(const ScanArgs& a, int64_t top, int64_t panel) {
  constexpr int kMost = 12 / (ROWS * PANELS), SPLIT = kMost < 1 ? 1 : kMost > 4 ? 4 : kMost;
  typename Ops::Vector sums[SPLIT][ROWS][PANELS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < PANELS; ++v) {
      sums[0][r][v] = Ops::add(Ops::broadcast(a.left_init[top + r]),
                               Ops::load(a.right_init + (panel + v) * kPanel));
#pragma GCC unroll 4
      for (int s = 1; s < SPLIT; ++s) sums[s][r][v] = Ops::broadcast(0);
    }
  }
  const uint32_t *block = a.block + top * a.words, *right = a.right + panel * a.words * kPanel;
  const auto step = [&](int64_t k, int s) __attribute__((always_inline)) {
    typename Ops::Words columns[PANELS];
#pragma GCC unroll 4
    for (int v = 0; v < PANELS; ++v) {
      columns[v] = Ops::load_words(right + (v * a.words + k) * kPanel);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const auto row = Ops::broadcast_word(TOGETHER ? block[r * a.words + k] : a.left[top + r][k]);
#pragma GCC unroll 4
      for (int v = 0; v < PANELS; ++v) sums[s][r][v] = Ops::dot(sums[s][r][v], row, columns[v]);
    }
  };
  int64_t k = 0;
  for (; k + SPLIT <= a.words; k += SPLIT) {
#pragma GCC unroll 4
    for (int s = 0; s < SPLIT; ++s) step(k + s, s);
  }
  for (; k < a.words; ++k) step(k, 0);
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < PANELS; ++v) {
#pragma GCC unroll 4
      for (int s = 1; s < SPLIT; ++s) sums[0][r][v] = Ops::add(sums[0][r][v], sums[s][r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < PANELS; ++v) {
      if (a.out != nullptr) {
        Ops::store(a.out + (top + r) * a.stride + (panel + v) * kPanel, sums[0][r][v]);
      } else {
        const int64_t at = (top + r) * a.mask_stride + panel + v;
        a.masks[at] = static_cast<uint16_t>(Ops::reached(sums[0][r][v], a.least[at]));
      }
    }
  }
}

template <class Ops, bool TOGETHER, int ROWS>
MUSC_INLINE void scan_rows(const ScanArgs& a, int64_t& top) {
  for (; top + ROWS <= a.rows; top += ROWS) {
    int64_t panel = 0;
    for (; panel + 3 <= a.panels; panel += 3) scan_tile<Ops, TOGETHER, ROWS, 3>(a, top, panel);
    for (; panel < a.panels; ++panel) scan_tile<Ops, TOGETHER, ROWS, 1>(a, top, panel);
  }
}

template <class Ops, bool TOGETHER>
MUSC_INLINE void scan_all(const ScanArgs& a) {
  int64_t top = 0;
  if constexpr (Ops::kRows >= 8) scan_rows<Ops, TOGETHER, 8>(a, top);
  if constexpr (Ops::kRows >= 4) scan_rows<Ops, TOGETHER, 4>(a, top);
  scan_rows<Ops, TOGETHER, 2>(a, top);
  scan_rows<Ops, TOGETHER, 1>(a, top);
}

template <class Ops>
void scan_kernel(const ScanArgs& args) {
  const ScanArgs a = args;  // a copy, which no store to `out` can change
  for (int64_t r = 0; a.out == nullptr && r < a.rows; ++r) {
    least_scores(a.row_limits[r], a.panel_errors, a.panels, a.least + r * a.mask_stride);
  }
  if (a.panels < 3) {
    scan_all<Ops, false>(a);
    return;
  }
  // The rows are read so often that a copy pays: side by side, one base register serves all eight.
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t k = 0; k < a.words; ++k) a.block[r * a.words + k] = a.left[r][k];
  }
  scan_all<Ops, true>(a);
}

}  // namespace
}  // namespace musc
