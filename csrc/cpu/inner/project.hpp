// Projecting rows on a basis. Included by the isa/*.cpp files alone, see tile.hpp.
#pragma once

#include <cstdint>

#include "cpu/inner/tile.hpp"
#include "cpu/inner/transpose.hpp"
#include "cpu/kernel_table.hpp"

namespace musc {
namespace {

// Products of kRows rows with PANELS panels of the basis from `panel` on, over the channels
// [first, last): stored to out if first is 0, else added to it.
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

// out [8][panels * 16] = (x - mean) . basis for 8 rows of x, `stride` apart; basis
// [panels][channels][16]; centred [channels][8]: scratch memory. Partial sums of kSummed products
// bound the rounding error: see projection_steps().
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

}  // namespace
}  // namespace musc
