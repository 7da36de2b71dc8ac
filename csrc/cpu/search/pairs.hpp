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

  void clear() { resize(0); }
  void resize(size_t count) {
    rows.resize(count);
    others.resize(count);
    places.resize(count);
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
  // Sorts the pairs into `to` by the image of `others`, which `image_of` tells by place: rows of
  // one image are then used while they are in a cache.
  void sort_by_image(const std::vector<int32_t>& image_of, int64_t images,
                     std::vector<int64_t>& ends, Pairs& to) const {
    ends.assign(sized(images + 1), 0);
    for (const int32_t place : places) ++ends[sized(image_of[sized(place)]) + 1];
    for (int64_t image = 0; image < images; ++image) ends[sized(image + 1)] += ends[sized(image)];
    to.resize(rows.size());
    for (size_t n = 0; n < rows.size(); ++n) {
      const size_t at = sized(ends[sized(image_of[sized(places[n])])]++);
      to.rows[at] = rows[n];
      to.others[at] = others[n];
      to.places[at] = places[n];
    }
  }
};

}  // namespace musc
