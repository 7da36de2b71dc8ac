// The table of an instruction set, and the kernels of one group of rows against panels: scanning a
// segment again, projecting on a basis. Included by the isa_*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/isa.hpp"
#include "cpu/rows.hpp"
#include "cpu/tile.hpp"
#include "cpu/whole.hpp"
#include "cpu/window.hpp"

namespace musc {
namespace {

// SPLIT accumulators a panel, so that one instruction need not wait for the last.
template <class Ops, int GROUP, int PANELS, int SPLIT>
MUSC_INLINE void scan_panels(const uint32_t* left, const uint32_t* right, int64_t words,
                             int32_t left_init, const int32_t* right_init, int32_t* out) {
  typename Ops::Vector sums[SPLIT][PANELS];
  for (int v = 0; v < PANELS; ++v) {
    sums[0][v] = Ops::add(Ops::broadcast(left_init), Ops::load(right_init + v * kPanel));
    for (int s = 1; s < SPLIT; ++s) sums[s][v] = Ops::broadcast(0);
  }
  int64_t k = 0;
  for (; k + SPLIT <= words; k += SPLIT) {
#pragma GCC unroll 4
    for (int s = 0; s < SPLIT; ++s) {
      const auto row = Ops::broadcast_word(left[(k + s) * GROUP]);
#pragma GCC unroll 6
      for (int v = 0; v < PANELS; ++v) {
        const auto columns = Ops::load_words(right + (v * words + k + s) * kPanel);
        sums[s][v] = Ops::dot(sums[s][v], row, columns);
      }
    }
  }
  for (; k < words; ++k) {
    const auto row = Ops::broadcast_word(left[k * GROUP]);
    for (int v = 0; v < PANELS; ++v) {
      const auto columns = Ops::load_words(right + (v * words + k) * kPanel);
      sums[0][v] = Ops::dot(sums[0][v], row, columns);
    }
  }
  for (int v = 0; v < PANELS; ++v) {
    for (int s = 1; s < SPLIT; ++s) sums[0][v] = Ops::add(sums[0][v], sums[s][v]);
    Ops::store(out + v * kPanel, sums[0][v]);
  }
}

template <class Ops, int GROUP>
void scan_kernel(const uint32_t* left, const uint32_t* right, int64_t words, int64_t panels,
                 int32_t left_init, const int32_t* right_init, int32_t* out) {
  int64_t p = 0;
  const auto next = [&](auto scan, int64_t count) {
    for (; p + count <= panels; p += count) {
      scan(left, right + p * words * kPanel, words, left_init, right_init + p * kPanel,
           out + p * kPanel);
    }
  };
  next(scan_panels<Ops, GROUP, 6, 1>, 6);
  next(scan_panels<Ops, GROUP, 3, 2>, 3);
  next(scan_panels<Ops, GROUP, 1, 4>, 1);
}

// out [8][panels * 16] = (x - mean) . basis for 8 rows of x, `stride` apart; basis as `right` words.
// centred [channels][8] is left holding x - mean.
template <class Ops>
void project_kernel(const float* x, int64_t stride, const float* mean, int64_t channels,
                    const float* basis, int64_t panels, float* centred, float* out) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int r = 0; r < kTileRows; ++r) centred[c * kTileRows + r] = x[r * stride + c] - mean[c];
  }
  for (int64_t p = 0; p < panels; ++p) {
    const float* columns = basis + p * channels * kPanel;
    for (int top = 0; top < kTileRows; top += Ops::kRows) {
      typename Ops::Vector sums[Ops::kRows];
      for (int r = 0; r < Ops::kRows; ++r) sums[r] = Ops::broadcast(0.0f);
      for (int64_t c = 0; c < channels; ++c) {
        const auto column = Ops::load(columns + c * kPanel);
#pragma GCC unroll 8
        for (int r = 0; r < Ops::kRows; ++r) {
          sums[r] = Ops::multiply_add(sums[r], centred[c * kTileRows + top + r], column);
        }
      }
      for (int r = 0; r < Ops::kRows; ++r) {
        Ops::store(out + (top + r) * panels * kPanel + p * kPanel, sums[r]);
      }
    }
  }
}

// The table of an instruction set; everything that is not written with `Ops` the compiler fits to it.
template <class Int, class Float>
constexpr Isa make_isa(const char* name) {
  return {name,
          {Int::kElements, 1, kTileRows, pair_kernel<Int>,
           round_panel_kernel<Int::kElements, kTileRows>, scan_kernel<Int, kTileRows>,
           peak_kernel<Int>},
          {1, pair_kernel<Float>, peak_kernel<Float>},
          {2, nullptr, nullptr},
          project_kernel<Float>,
          squared_distances_kernel,
          round_kernel<int8_t>,
          round_kernel<int16_t>,
          squares_kernel<int16_t, 8>,
          squares_kernel<int8_t, 3>,
          largest_kernel,
          fold_least_kernel,
          Int::within,
          Int::select,
          sum_kernel,
          squares_about_kernel,
          squares_about_double_kernel,
          slide_kernel<float>,
          slide_kernel<double>,
          centre_and_scale_kernel};
}

}  // namespace
}  // namespace musc
