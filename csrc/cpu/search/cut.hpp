// How the grid is cut among threads: for the search by place.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/search/local.hpp"

namespace musc {

// A part of the grid: rows [top, bottom), columns [left, right).
struct Part {
  int64_t top, bottom, left, right;

  bool holds(int64_t row, int64_t column) const {
    return top <= row && row < bottom && left <= column && column < right;
  }
};

// How the grid is cut: into `rows` x `columns` parts, one a thread at most. A product of two places
// of one part serves both; so parts are at least so high and wide that most products do.
struct Cut {
  int64_t rows, columns, height;

  Cut(const LocalGrid& grid, int64_t first_row, int64_t last_row, int threads) {
    const int64_t all = last_row - first_row, least = std::max<int64_t>(4, grid.reach);
    const auto within = [](int64_t most, int64_t n) { return n < 1 ? 1 : std::min(most, n); };
    rows = within(threads, all / least);
    columns = within((threads + rows - 1) / rows, grid.width / least);
    rows = within(threads / columns, rows);
    height = (all + rows - 1) / rows;
  }
  int64_t parts() const { return rows * columns; }
};

}  // namespace musc
