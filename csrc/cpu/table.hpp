// The table of an instruction set, and the kernels of a few rows against panels: scanning a segment
// again, projecting on a basis. Included by the isa_*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/isa.hpp"
#include "cpu/looks.hpp"
#include "cpu/rows.hpp"
#include "cpu/summarise.hpp"
#include "cpu/tile.hpp"
#include "cpu/whole.hpp"
#include "cpu/window.hpp"

namespace musc {
namespace {

// ROWS rows against PANELS panels; SPLIT accumulators each, so that no instruction waits for the last.
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
    least_scores(a.slopes[r], a.deltas, a.panels, a.least + r * a.mask_stride);
  }
  if (a.panels < 3) {
    scan_all<Ops, false>(a);
    return;
  }
  // Read often enough that one base register for eight rows is worth a copy.
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t k = 0; k < a.words; ++k) a.block[r * a.words + k] = a.left[r][k];
  }
  scan_all<Ops, true>(a);
}

// The products of the PANELS panels from `panel` on with the channels [first, last), for kRows rows:
// added to out, but for the first ones.
template <class Ops, int PANELS>
MUSC_INLINE void project_tile(const float* centred, const float* basis, int64_t channels,
                              int64_t first, int64_t last, int64_t panel, int64_t stride,
                              float* out) {
  typename Ops::Vector sums[Ops::kRows][PANELS];
#pragma GCC unroll 8
  for (int r = 0; r < Ops::kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < PANELS; ++v) sums[r][v] = Ops::broadcast(0.0f);
  }
  for (int64_t c = first; c < last; ++c) {
    typename Ops::Vector columns[PANELS];
#pragma GCC unroll 4
    for (int v = 0; v < PANELS; ++v) {
      columns[v] = Ops::load(basis + ((panel + v) * channels + c) * kPanel);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Ops::kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < PANELS; ++v) {
        sums[r][v] = Ops::multiply_add(sums[r][v], centred[c * kTileRows + r], columns[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Ops::kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < PANELS; ++v) {
      float* to = out + r * stride + (panel + v) * kPanel;
      Ops::store(to, first == 0 ? sums[r][v] : Ops::add(Ops::load(to), sums[r][v]));
    }
  }
}

// out [8][panels * 16] = (x - mean) . basis for 8 rows of x, `stride` apart; basis as `right` words.
// centred [channels][8]: scratch. In sums of kSummed: see projection_steps().
template <class Ops>
void project_kernel(const float* x, int64_t stride, const float* mean, int64_t channels,
                    const float* basis, int64_t panels, float* centred, float* out) {
  constexpr int kTogether = Ops::kRows >= 8 ? 3 : 1;  // panels
  const int64_t row = panels * kPanel;
  centre_lanes<kTileRows>(x, stride, kTileRows, mean, channels, centred);
  for (int64_t first = 0; first < channels; first += kSummed) {
    const int64_t last = first + kSummed < channels ? first + kSummed : channels;
    for (int top = 0; top < kTileRows; top += Ops::kRows) {
      const float* rows = centred + top;
      float* to = out + top * row;
      int64_t p = 0;
      for (; p + kTogether <= panels; p += kTogether) {
        project_tile<Ops, kTogether>(rows, basis, channels, first, last, p, row, to);
      }
      for (; kTogether > 2 && p + 2 <= panels; p += 2) {
        project_tile<Ops, 2>(rows, basis, channels, first, last, p, row, to);
      }
      for (; p < panels; ++p) project_tile<Ops, 1>(rows, basis, channels, first, last, p, row, to);
    }
  }
}

// The table of an instruction set; everything that is not written with `Ops` the compiler fits to it.
template <class Int, class Float>
constexpr Isa make_isa(const char* name) {
  return {name,
          {Int::kElements, 1, pair_kernel<Int>, round_panel_kernel<Int::kElements>,
           scan_kernel<Int>, peak_kernel<Int>},
          {1, pair_kernel<Float>, peak_kernel<Float>},
          {2, nullptr, nullptr},
          project_kernel<Float>,
          squared_distances_kernel,
          subtract_kernel,
          round_kernel<int8_t>,
          round_kernel<int16_t>,
          compare_kernel<int16_t, fine_square, 8>,
          compare_kernel<int8_t, rest_dot, 3>,
          0,
          keep_fine_kernel<Int>,
          keep_rest_kernel<Int>,
          largest_kernel<Int>,
          summarise_kernel<Int>,
          smallest_kernel<Int>,
          within_kernel<Int>,
          choose_kernel<Int>,
          sum_kernel,
          squares_about_kernel,
          squares_about_double_kernel,
          slide_kernel<float>,
          slide_kernel<double>,
          centre_and_scale_kernel};
}

}  // namespace
}  // namespace musc
