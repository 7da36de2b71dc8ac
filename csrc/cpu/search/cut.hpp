// How the grid is cut among threads: for the search by place.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

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
    const int64_t all = last_row - first_row, least = Cut::least_side(grid);
    const auto within = [](int64_t most, int64_t n) { return n < 1 ? 1 : std::min(most, n); };
    rows = within(threads, all / least);
    columns = within((threads + rows - 1) / rows, grid.width / least);
    rows = within(threads / columns, rows);
    height = (all + rows - 1) / rows;
  }
  int64_t parts() const { return rows * columns; }
  // The rows and columns of a part, at least, and the most parts of a grid.
  static int64_t least_side(const LocalGrid& grid) { return std::max<int64_t>(4, grid.reach); }
  static int64_t most_parts(const LocalGrid& grid) {
    const auto of = [&](int64_t side) { return std::max<int64_t>(1, side / least_side(grid)); };
    return of(grid.height) * of(grid.width);
  }
};

// The columns that nobody has taken yet. Every part has a thread that takes its columns from the
// left; one that has finished its own helps another from the right, so that no thread waits long
// where cores differ in speed.
class Columns {
 public:
  Columns(const Cut& cut, const LocalGrid& grid, int64_t first_row, int64_t last_row) {
    const int64_t all = last_row - first_row;
    for (int64_t part = 0; part < cut.parts(); ++part) {
      const int64_t row = part / cut.columns, column = part % cut.columns;
      const Part whole{first_row + all * row / cut.rows, first_row + all * (row + 1) / cut.rows,
                       grid.width * column / cut.columns, grid.width * (column + 1) / cut.columns};
      parts_.push_back({whole, whole.left, whole.right, false});
    }
  }

  const Part& part(int64_t number) const { return parts_[sized(number)].whole; }

  // The part with the most columns left, of those without a helper; -1: none.
  int64_t to_help() {
    const std::lock_guard<std::mutex> guard(lock_);
    int64_t found = -1, most = 0;
    for (size_t n = 0; n < parts_.size(); ++n) {
      const int64_t left = parts_[n].right - parts_[n].left;
      if (parts_[n].helped || left <= most) continue;
      found = static_cast<int64_t>(n);
      most = left;
    }
    if (found >= 0) parts_[sized(found)].helped = true;
    return found;
  }

  // The next column of a part, from its left or its right; none: all are taken.
  std::optional<int64_t> take(int64_t number, bool from_right) {
    const std::lock_guard<std::mutex> guard(lock_);
    State& part = parts_[sized(number)];
    if (part.left == part.right) return std::nullopt;
    return from_right ? --part.right : part.left++;
  }

 private:
  struct State {
    Part whole;
    int64_t left, right;  // columns [left, right) are not taken
    bool helped;
  };

  std::mutex lock_;
  std::vector<State> parts_;
};

}  // namespace musc
