// Pairs of rows to compare exactly: for the search by place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernel_table.hpp"
#include "cpu/parallel.hpp"

namespace musc {

// Pairs of rows whose distances are wanted, and where the least of them goes.
struct Pairs {
  std::vector<int32_t> rows, others, places;
  std::vector<float> squares;

  void clear() {
    rows.clear();
    others.clear();
    places.clear();
  }
  void add(int64_t row, int64_t other, int64_t place) {
    rows.push_back(static_cast<int32_t>(row));
    others.push_back(static_cast<int32_t>(other));
    places.push_back(static_cast<int32_t>(place));
  }
  // Lowers nearest[place] to the squared distances of the pairs.
  void compute(const KernelTable& kernels, const float* x, const float* y, int64_t channels,
               float* nearest) {
    const auto count = static_cast<int64_t>(rows.size());
    squares.resize(rows.size());
    kernels.squared_distances(x, y, channels, {rows.data(), others.data(), count}, squares.data());
    for (int64_t n = 0; n < count; ++n) {
      float& least = nearest[places[sized(n)]];
      least = squares[sized(n)] < least ? squares[sized(n)] : least;
    }
  }
};

}  // namespace musc
